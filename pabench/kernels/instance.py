# SPDX-License-Identifier: Apache-2.0
"""Compile-time parameters shared by our kernels, and how they follow from a problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pabench.device.base import Device, KernelSource
from pabench.problem.dtypes import DTYPES, DType

DTYPE_CODES = {"float32": 0, "float16": 1, "bfloat16": 2}
WARPS = 4
"""Warps of a block; a warp works alone, so this only groups them."""
THREADS = 32 * WARPS

LOAD_BYTES = 16
HEAD_DIMS = (64, 80, 96, 112, 128, 192, 256)
"""Head dimensions of published models, for which the static table is made; kernels take others too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEntry:
    """How one entry point of an instance is launched, as far as that is known before a problem.

    Attributes:
        name: entry point.
        threads: of one block.
        shared_bytes: dynamic shared memory of one block.
        allowed_spill_bytes: of one thread, stores or loads, that are known and accepted.
        turn_tokens: keys that a block attends to in one turn of its loop; 0 where that says nothing.
        turn_warps: warps of a block that run that loop; 0 for all.
    """

    name: str
    threads: int
    shared_bytes: int = 0
    allowed_spill_bytes: int = 0
    turn_tokens: int = 0
    turn_warps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelInstance:
    """A kernel file with its macros, and its entry points.

    Attributes:
        file: name in the kernels folder.
        label: the instance in words.
        defines: macro name to value.
        entries: all entry points of the file.
        architectures: those it is launched on; empty for all.
    """

    file: str
    label: str
    defines: Mapping[str, int]
    entries: tuple[KernelEntry, ...]
    architectures: frozenset[str] = frozenset()


def shaped_instances() -> Iterator[tuple[str, dict[str, int], int]]:
    """Yield label, macros and head_dim of each shape: every dtype x ``HEAD_DIMS`` x load width.

    The widths are those ``vector_width`` can choose: the widest for arrays that start at a multiple of 16
    bytes, each narrower one for arrays that do not.
    """
    for dtype in DTYPES.values():
        for head_dim in HEAD_DIMS:
            width = vector_width(head_dim, dtype)
            while width:
                label = f"{dtype.name} head_dim {head_dim} loads of {width}"
                yield label, shape_defines(head_dim, dtype, width), head_dim
                width //= 2


def shape_defines(head_dim: int, dtype: DType, width: int) -> dict[str, int]:
    """Return the macros of a kernel that is compiled for one head dimension, dtype and load width."""
    return {
        "PAB_HEAD_DIM": head_dim,
        "PAB_DTYPE": DTYPE_CODES[dtype.name],
        "PAB_VEC": width,
        "PAB_WARPS": WARPS,
    }


def vector_width(head_dim: int, dtype: DType, *arrays: Any) -> int:
    """Return how many elements one load may take: up to 16 bytes, dividing ``head_dim``.

    The start of every array must be a multiple of the load; strides are multiples of ``head_dim``.
    """
    width = LOAD_BYTES // dtype.itemsize
    starts = [address_of(array) for array in arrays]
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


def address_of(array: Any) -> int:
    """Return where the elements of a device array begin."""
    if hasattr(array, "ctypes"):
        return int(array.ctypes.data)
    return int(array.data.ptr)
