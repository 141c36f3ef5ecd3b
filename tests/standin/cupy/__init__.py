"""A stand-in for CuPy: the names that pabench uses, over the emulated device.

A folder that is put on the path before the real package, for tests of what happens on a machine with a GPU
up to and including the launch: kernels really run, streams and graphs keep their order, events read the
host's clock.  Times say nothing about any GPU, and the device's name says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import cuda as cuda
from .memory import ndarray as ndarray
from .memory import new_array

__version__ = "0.stand-in"


def empty(shape: Any, dtype: Any) -> ndarray:
    """Return memory that nobody wrote."""
    return new_array(shape, dtype)


def zeros(shape: Any, dtype: Any) -> ndarray:
    """Return memory of zeros."""
    made = new_array(shape, dtype)
    made[...] = 0
    return made


def asarray(array: Any) -> ndarray:
    """Return a copy on the device."""
    if isinstance(array, ndarray):
        return array
    made = new_array(array.shape, array.dtype)
    made[...] = array
    return made


def asnumpy(array: Any) -> np.ndarray[Any, Any]:
    """Return a copy on the host."""
    return np.array(np.asarray(array).view(np.ndarray))


class RawModule:
    """A kernel file, compiled for the host."""

    def __init__(self, *, code: str, options: tuple[str, ...], backend: str) -> None:
        self._code, self._options = code, options

    def compile(self) -> None:
        """Compile now."""
        self._module = cuda.compiled(self._code, self._options)

    def get_function(self, name: str) -> cuda.Kernel:
        """Return an entry point."""
        return cuda.Kernel(self._module, name)


class _Pool:
    def free_all_blocks(self) -> None:
        """Nothing is held back."""


def get_default_memory_pool() -> _Pool:
    """Return the pool."""
    return _Pool()
