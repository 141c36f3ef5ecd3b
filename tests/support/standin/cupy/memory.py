# SPDX-License-Identifier: Apache-2.0
"""Device memory of the stub: numpy arrays that know how to be set."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

ALIGNMENT = 256


class ndarray(np.ndarray[Any, np.dtype[Any]]):  # noqa: N801
    """Stands for cupy.ndarray; what is called ``data`` there is a pointer here too."""

    def set(self, array: np.ndarray[Any, Any]) -> None:
        """Copy from the host."""
        self[...] = array

    @property
    def data(self) -> Any:
        """Return the pointer, with ``memset`` and ``memset_async``."""

        def memset(value: int, count: int) -> None:
            if count != self.nbytes:
                raise ValueError(f"memset of {count} bytes in an array of {self.nbytes}")
            self.reshape(-1).view(np.uint8)[:] = value

        def memset_async(value: int, count: int) -> None:
            from .cuda import Stream

            Stream.current()._take(lambda: memset(value, count))

        return SimpleNamespace(ptr=self.ctypes.data, memset=memset, memset_async=memset_async)


def new_array(shape: Any, dtype: Any) -> ndarray:
    """Return memory that starts where CUDA's allocations start."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    made: ndarray = raw[start : start + size].view(dtype).reshape(shape).view(ndarray)
    return made
