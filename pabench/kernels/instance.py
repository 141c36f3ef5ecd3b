"""Compile-time parameters shared by our kernels, and how they follow from a problem."""

from __future__ import annotations

from typing import Any

from pabench.device.base import Device, KernelSource
from pabench.problem.dtypes import DType

DTYPE_CODES = {"float32": 0, "float16": 1, "bfloat16": 2}
WARPS = 4
"""Warps of a block; a warp works alone, so this only groups them."""

LOAD_BYTES = 16


def vector_width(head_dim: int, dtype: DType, *arrays: Any) -> int:
    """Return how many elements one load may take: up to 16 bytes, dividing ``head_dim``.

    The start of every array must be a multiple of the load; strides are multiples of ``head_dim``.
    """
    width = LOAD_BYTES // dtype.itemsize
    starts = [address(array) for array in arrays]
    while width > 1 and (head_dim % width or any(start % (width * dtype.itemsize) for start in starts)):
        width //= 2
    return width


def kernel_source(device: Device, file: str, **defines: int) -> KernelSource:
    """Return the source of one of our kernels with its macros."""
    return KernelSource(
        path=device.kernels / file,
        include_dir=device.kernels,
        defines={name: str(value) for name, value in defines.items()},
    )


def address(array: Any) -> int:
    """Return where an array of either device begins."""
    if hasattr(array, "ctypes"):
        return int(array.ctypes.data)
    return int(array.data.ptr)
