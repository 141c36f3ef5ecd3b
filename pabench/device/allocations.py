# SPDX-License-Identifier: Apache-2.0
"""The memory of a checked device: which allocations there are, which were freed, which bytes were written."""

from __future__ import annotations

import bisect
import math
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
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


BUFFER = np.dtype(
    [("base", "u8"), ("bytes", "u8"), ("written", "u8")]
    + [(name, "u4") for name in ("number", "freed", "constant", "unused")]
)
"""``Buffer`` of emulator/checked/request.h."""


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
    _written_at: int = field(init=False)

    def __post_init__(self) -> None:
        self._written_at = 0 if self.written is None else self.written.ctypes.data

    def row(self, number: int) -> tuple[int, ...]:
        """Return the ``BUFFER`` of this allocation, the one that the caller calls ``number``."""
        # every launch asks for hundreds of them, so no address is looked up twice
        return (self.base, self.nbytes, self._written_at, number, int(self.freed), 0, 0)


class Allocations:
    """Allocations by address, without overlaps: memory that is handed out again replaces what was freed."""

    def __init__(self) -> None:
        self._live: list[Allocation] = []
        # of arrays that no longer exist: the interpreter says so at any moment, in the middle of a search too
        self._ended: deque[Allocation] = deque()
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
        self._settle()
        self._live = [a for a in self._live if a.base + a.nbytes <= base or base + nbytes <= a.base]
        bisect.insort(self._live, entry, key=lambda a: a.base)
        # the owner of the bytes lives as long as any view of them
        weakref.finalize(_owner(array), self._ended.append, entry)
        return entry

    def free(self, array: Array) -> None:
        """Note that the memory of ``array`` was given back, though the host still holds it."""
        base, _ = _span(array)
        if (entry := self.at(base)) is not None:
            entry.freed = True
            self._forget_some()

    def knows(self, array: Array) -> bool:
        """Whether the memory of ``array`` is registered, as live or as given back while its array lives."""
        entry = self.at(_span(array)[0])
        return entry is not None and not entry.gone

    def at(self, address: int) -> Allocation | None:
        """Return the allocation that holds ``address``, freed ones included."""
        self._settle()
        place = place_of(self._live, address)
        return None if place is None else self._live[place]

    def covers(self, array: Array) -> bool:
        """Whether the memory of ``array`` lies within one live allocation."""
        base, nbytes = _span(array)
        entry = self.at(base)
        return nbytes == 0 or (
            entry is not None and not entry.freed and base + nbytes <= entry.base + entry.nbytes
        )

    def native(self) -> tuple[Array, list[Allocation]]:
        """Return a ``BUFFER`` array of all allocations by address, and the same as Python objects."""
        self._settle()
        entries = list(self._live)
        return np.array([entry.row(number) for number, entry in enumerate(entries)], BUFFER), entries

    def _settle(self) -> None:
        """Take note of the arrays that have ended since the last call."""
        if not self._ended:
            return
        while self._ended:
            entry = self._ended.popleft()
            entry.gone = entry.freed = True
        self._forget_some()

    def _forget_some(self) -> None:
        freed = [a for a in self._live if a.freed]
        if len(freed) > KEPT_FREED:
            dropped = set(map(id, freed[: len(freed) - KEPT_FREED]))
            self._live = [a for a in self._live if id(a) not in dropped]


def place_of(entries: Sequence[Allocation], address: int) -> int | None:
    """Return where among ``entries``, sorted by address, the one is that holds ``address``."""
    place = bisect.bisect_right(entries, address, key=lambda a: a.base) - 1
    if place < 0 or address >= entries[place].base + entries[place].nbytes:
        return None
    return place


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
