# SPDX-License-Identifier: Apache-2.0
"""A stub for CuPy: the names that pabench uses, over the emulated device.

A folder that is put on the path before the real package, for tests of what happens on a machine with a GPU
up to and including the launch: kernels really run, streams and graphs keep their order, events read the
host's clock.  Times say nothing about any GPU, and the device's name says so.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

import numpy as np

from . import cuda as cuda
from .memory import ndarray as ndarray
from .memory import new_array

__version__ = "0.stub"


def _own_module(name: str) -> Any:
    """A module of the real package, which the real NVRTC bindings look for."""
    for package in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        try:
            path = importlib.metadata.distribution(package).locate_file(f"cupy/{name}.py")
        except importlib.metadata.PackageNotFoundError:
            continue
        spec = importlib.util.spec_from_file_location(f"cupy.{name}", str(path))
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return None


_environment = _own_module("_environment")


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

    def total_bytes(self) -> int:
        """Nothing is held."""
        return 0


def get_default_memory_pool() -> _Pool:
    """Return the pool."""
    return _Pool()
