# SPDX-License-Identifier: Apache-2.0
"""Pools far larger than memory, of which only the pages in use are ever touched.

A kernel that computes the place of a page in 32 bits is right until the pool passes 2 or 4 GiB, or 2^31 or
2^32 elements.  Address space costs nothing, so such a pool is reserved whole, and its used pages lie where
those offsets wrap.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Callable, Iterator

import numpy as np

from pabench.errors import Unsupported
from pabench.problem.dtypes import Array

WRAPS = (2**31, 2**32)
"""Where signed and unsigned offsets of 32 bits wrap, whether they count bytes or elements."""
MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)

Lender = Callable[[int], mmap.mmap]
"""From a number of bytes to zeroed memory of which only what is written takes room."""


def wrap_pages(page_stride: int, itemsize: int) -> tuple[int, ...]:
    """Return the first page at or past each wrap, ascending.

    Args:
        page_stride: elements between neighbouring pages.
        itemsize: bytes of an element.
    """
    return tuple(sorted({-(-wrap // (page_stride * unit)) for wrap in WRAPS for unit in (1, itemsize)}))


def private_memory(size: int) -> mmap.mmap:
    """Return zeroed memory of this process alone; raises ``OSError`` when there is not so much of it."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)


_lenders: list[Lender] = []


@contextlib.contextmanager
def lent_by(lender: Lender) -> Iterator[None]:
    """Let large pools lie in memory of ``lender``, where another process can read them without a copy."""
    _lenders.append(lender)
    try:
        yield
    finally:
        _lenders.remove(lender)


def reserved_zeros(shape: tuple[int, ...], dtype: np.dtype[np.generic], *, lead: int = WRAPS[0]) -> Array:
    """Return zeros of which the machine gives memory to those that are written.

    Zeros lie before the array too, as far as a signed offset of 32 bits reaches back: a kernel that wraps
    reads them, and is then wrong in a way that can be told, where it would otherwise crash.

    Args:
        shape: of the array.
        dtype: of the array.
        lead: elements before the array.

    Raises:
        Unsupported: this system gives out no address space of that size.
    """
    count = int(np.prod(shape, dtype=object))
    size = (lead + count) * dtype.itemsize
    try:
        memory = (_lenders[-1] if _lenders else private_memory)(size)
    except (OSError, ValueError, OverflowError) as error:
        text = f"a pool of {size / 2**30:.0f} GiB cannot be reserved on this machine: {error}"
        raise Unsupported(text) from None
    return np.frombuffer(memory, dtype=dtype, count=count, offset=lead * dtype.itemsize).reshape(shape)


MAX_TOUCHED_BYTES = 2**31
"""Of a pool larger than memory as much may be in use where a copy of it is made."""
_libc = ctypes.CDLL(None, use_errno=True)


def sparse_copy(array: Array) -> Array:
    """Return a copy of a contiguous array larger than memory, in which only what is in use takes room.

    Raises:
        Unsupported: this system does not say what is in use, or that is too much.
    """
    begin = array.ctypes.data
    first = begin // mmap.PAGESIZE * mmap.PAGESIZE
    count = -(-(begin + array.nbytes - first) // mmap.PAGESIZE)
    resident = np.zeros(count, np.uint8)
    place = ctypes.c_void_p(resident.ctypes.data)
    if _libc.mincore(ctypes.c_void_p(first), ctypes.c_size_t(count * mmap.PAGESIZE), place):
        raise Unsupported("this system does not say which pages of memory are in use")
    # a run of pages in use begins and ends where this changes
    steps = np.flatnonzero(np.diff(np.concatenate([[0], resident & 1, [0]]).astype(np.int8)))
    if int(np.subtract(steps[1::2], steps[::2]).sum()) * mmap.PAGESIZE > MAX_TOUCHED_BYTES:
        raise Unsupported(f"more than {MAX_TOUCHED_BYTES / 2**30:.0f} GiB of a pool are in use")
    copy = reserved_zeros(array.shape, array.dtype)
    for low, high in steps.reshape(-1, 2).tolist():
        start = max(first + low * mmap.PAGESIZE, begin)
        stop = min(first + high * mmap.PAGESIZE, begin + array.nbytes)
        ctypes.memmove(copy.ctypes.data + start - begin, start, stop - start)
    return copy
