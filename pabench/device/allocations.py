"""The memory of a checked device: which allocations there are, which were freed, which bytes were written."""

from __future__ import annotations

import bisect
import ctypes
import math
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.problem.dtypes import Array

KEPT_FREED = 256
"""Freed allocations remembered, so that a kernel that still uses one is told whose memory it was."""

FENCE_BYTES = 2**16
"""Memory of nobody on both sides of an allocation: what strays from it must not land in another one."""
ALIGN_BYTES = 256
"""Of an allocation, as the allocators of CUDA align."""


def fenced(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return new memory, aligned, with memory of nobody before and behind it."""
    nbytes = math.prod(shape) * dtype.itemsize
    room = np.empty(nbytes + 2 * FENCE_BYTES + ALIGN_BYTES, np.uint8)
    start = FENCE_BYTES + -(room.ctypes.data + FENCE_BYTES) % ALIGN_BYTES
    return room[start : start + nbytes].view(dtype).reshape(shape)


class NativeBuffer(ctypes.Structure):
    """``Buffer`` of emulation/checked/request.h."""

    _fields_ = (
        ("base", ctypes.c_ulonglong),
        ("bytes", ctypes.c_ulonglong),
        ("written", ctypes.c_void_p),
        ("number", ctypes.c_uint),
        ("freed", ctypes.c_uint),
        ("constant", ctypes.c_uint),
        ("unused", ctypes.c_uint),
    )


@dataclass(slots=True, eq=False)
class Allocation:
    """One allocation of device memory.

    Attributes:
        base: address of its first byte.
        nbytes: its size.
        written: one byte a byte of memory, nonzero once written; None when the host wrote it all.
        label: what findings call it when no kernel parameter names it.
        freed: whether it was given back.
        gone: whether its array no longer exists, so that the host may use the memory for another.
    """

    base: int
    nbytes: int
    written: Array | None
    label: str
    freed: bool = False
    gone: bool = False


class Allocations:
    """Allocations by address, without overlaps: memory that is handed out again replaces what was freed."""

    def __init__(self) -> None:
        self._live: list[Allocation] = []
        self._count = 0

    def add(self, array: Array, *, written: bool, label: str | None = None) -> Allocation:
        """Register the memory that ``array`` spans, of which nothing is written yet unless ``written``."""
        base, nbytes = _span(array)
        self._count += 1
        entry = Allocation(
            base=base,
            nbytes=nbytes,
            written=None if written else np.zeros(nbytes, np.uint8),
            label=label or f"allocation {self._count}",
        )
        if nbytes == 0:
            return entry
        self._live = [a for a in self._live if a.base + a.nbytes <= base or base + nbytes <= a.base]
        bisect.insort(self._live, entry, key=lambda a: a.base)
        # the owner of the bytes lives as long as any view of them
        weakref.finalize(_owner(array), self._mark_gone, entry)
        return entry

    def free(self, array: Array) -> None:
        """Note that the memory of ``array`` was given back, though the host still holds it."""
        base, _ = _span(array)
        if (entry := self.at(base)) is not None:
            self._mark_freed(entry)

    def knows(self, array: Array) -> bool:
        """Whether the memory of ``array`` is registered, as live or as given back while its array lives."""
        entry = self.at(_span(array)[0])
        return entry is not None and not entry.gone

    def at(self, address: int) -> Allocation | None:
        """Return the allocation that holds ``address``, freed ones included."""
        place = bisect.bisect_right(self._live, address, key=lambda a: a.base) - 1
        if place < 0:
            return None
        entry = self._live[place]
        return entry if address < entry.base + entry.nbytes else None

    def covers(self, array: Array) -> bool:
        """Whether the memory of ``array`` lies within one live allocation."""
        base, nbytes = _span(array)
        entry = self.at(base)
        return nbytes == 0 or (
            entry is not None and not entry.freed and base + nbytes <= entry.base + entry.nbytes
        )

    def native(self) -> tuple[Any, list[Allocation]]:
        """Return a ctypes array of all allocations by address, and the same as Python objects."""
        entries = list(self._live)
        table = (NativeBuffer * max(1, len(entries)))()
        for number, (row, entry) in enumerate(zip(table, entries, strict=False)):
            row.base, row.bytes, row.number = entry.base, entry.nbytes, number
            row.written = entry.written.ctypes.data if entry.written is not None else None
            row.freed = int(entry.freed)
        return table, entries

    def _mark_gone(self, entry: Allocation) -> None:
        entry.gone = True
        self._mark_freed(entry)

    def _mark_freed(self, entry: Allocation) -> None:
        entry.freed = True
        freed = [a for a in self._live if a.freed]
        if len(freed) > KEPT_FREED:
            dropped = set(map(id, freed[: len(freed) - KEPT_FREED]))
            self._live = [a for a in self._live if id(a) not in dropped]


def owner_of(array: Array) -> Array:
    """Return the array that owns the bytes of ``array``, itself or the one it is a view of."""
    return _owner(array)


def _owner(array: Array) -> Array:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _span(array: Array) -> tuple[int, int]:
    low, high = (
        np.lib.array_utils.byte_bounds(array) if array.size else (array.ctypes.data, array.ctypes.data)
    )
    return int(low), int(high - low)
