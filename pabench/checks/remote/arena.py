# SPDX-License-Identifier: Apache-2.0
"""Memory for the inputs of a subject, which this process writes and the subject's can only read.

A segment is a file in memory.  Its pages exist once they are written, so its size costs nothing.  It is
sealed: who gets its descriptor can map it for reading and in no other way, however it opens it again.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import mmap
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pabench.errors import EnvironmentRefused
from pabench.problem.dtypes import Array
from pabench.subjects.process.memory import Place

SEGMENT_BYTES = 2**26
ALIGNMENT = 64
"""Arrays start at a multiple of it, plus what their own address is off one of 16."""
NATURAL = 16
ADD_SEALS, SEAL, SHRINK, GROW, FUTURE_WRITE = 1033, 0x1, 0x2, 0x4, 0x10
"""Of ``fcntl.h``; Python names not all of them."""
MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)

_libc = ctypes.CDLL(None)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Segment:
    """Memory that can be lent.

    Attributes:
        number: its name, never used again.
        size: in bytes.
        start: address here.
        descriptor: good for reading alone.
    """

    number: int
    size: int
    start: int
    descriptor: int


_lent: dict[int, Segment] = {}
"""Segments by number whose memory is in use."""


def lend(size: int) -> mmap.mmap:
    """Return zeroed memory, a segment of its own for as long as an array in it lives.

    Raises:
        OSError: the system gives no such memory.
    """
    file = os.memfd_create("pabench-inputs", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, size)
        memory = mmap.mmap(file, size, mmap.MAP_SHARED | MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE)
        try:
            fcntl.fcntl(file, ADD_SEALS, FUTURE_WRITE | GROW | SHRINK | SEAL)
        except OSError:
            # before Linux 5.1: then a descriptor for reading has to do
            fcntl.fcntl(file, ADD_SEALS, GROW | SHRINK | SEAL)
        descriptor = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(file)
    start = np.frombuffer(memory, np.uint8).ctypes.data
    segment = Segment(number=next(_numbers), size=size, start=start, descriptor=descriptor)
    _lent[segment.number] = segment
    weakref.finalize(memory, _take_back, segment.number)
    return memory


def segment_at(low: int, high: int) -> Segment | None:
    """Return the segment that holds the addresses from ``low`` up to ``high``, or None."""
    for segment in list(_lent.values()):
        if segment.start <= low and high <= segment.start + segment.size:
            return segment
    return None


def segments() -> Iterator[Segment]:
    """Yield the segments in use."""
    yield from list(_lent.values())


def _take_back(number: int) -> None:
    os.close(_lent.pop(number).descriptor)


@dataclass(slots=True)
class Placed:
    """An array that was placed, kept so that its ``id`` stays its own; its span in memory, and the copy's."""

    array: Array
    place: Place
    start: int
    size: int
    copy: int


class Arena:
    """Puts arrays into segments, one behind the other, for the time of a case."""

    def __init__(self) -> None:
        self._memory: list[mmap.mmap] = []
        self._segment: Segment | None = None
        self._end = 0
        self._placed: dict[int, Placed] = {}

    def begin(self) -> None:
        """Forget all arrays; one segment of the usual size is used again, the others go."""
        self._placed.clear()
        self._memory = [memory for memory in self._memory if len(memory) == SEGMENT_BYTES][:1]
        self._segment = _segment_of(self._memory[0]) if self._memory else None
        self._end = 0

    @property
    def held_bytes(self) -> int:
        """Size of the segments that are kept for cases to come."""
        return sum(map(len, self._memory))

    def put(self, array: Array) -> Place:
        """Return the place of ``array``: where it lies already, or a copy; the same array keeps its place.

        Strides, and the alignment of the first element, are those of the array.

        Raises:
            EnvironmentRefused: the system gives no memory for it.
        """
        placed = self._placed.get(id(array))
        if placed is None:
            placed = self._place(array)
            self._placed[id(array)] = placed
        elif placed.copy and _libc.memcmp(placed.start, placed.copy, placed.size):
            # changed since, as the subject would see it too if it had the array itself
            ctypes.memmove(placed.copy, placed.start, placed.size)
        return placed.place

    def found(self, number: int, offset: int) -> tuple[Array, int] | None:
        """Return the array of this case that holds a byte of a segment, and which of its own that is."""
        segment = _lent.get(number)
        if segment is None:
            return None
        for placed in self._placed.values():
            at = segment.start + offset - (placed.copy or placed.start)
            if 0 <= at < placed.size and placed.array.flags.c_contiguous:
                return placed.array, at
        return None

    def _place(self, array: Array) -> Placed:
        low, high = _span(array)
        size, first = high - low, array.ctypes.data - low
        segment = segment_at(low, high) if size else None
        if segment is not None:
            place = _place_in(segment, low - segment.start + first, array)
            return Placed(array, place, low, size, 0)
        segment, offset = self._room(size, (low + first) % NATURAL - first)
        copy = segment.start + offset
        ctypes.memmove(copy, low, size)
        return Placed(array, _place_in(segment, offset + first, array), low, size, copy)

    def _room(self, size: int, off: int) -> tuple[Segment, int]:
        """A segment and an offset in it for ``size`` bytes, ``off`` from a multiple of ``ALIGNMENT``."""
        start = -(-self._end // ALIGNMENT) * ALIGNMENT + off % ALIGNMENT
        if self._segment is None or start + size > self._segment.size:
            try:
                self._memory.append(lend(max(SEGMENT_BYTES, size + 2 * ALIGNMENT)))
            except OSError as error:
                raise EnvironmentRefused(f"no memory to share with a subject: {error.strerror}") from None
            self._segment = _segment_of(self._memory[-1])
            start = off % ALIGNMENT
        self._end = start + size
        return self._segment, start


def _segment_of(memory: mmap.mmap) -> Segment:
    start = np.frombuffer(memory, np.uint8).ctypes.data
    return next(segment for segment in _lent.values() if segment.start == start)


def _place_in(segment: Segment, offset: int, array: Array) -> Place:
    return (segment.number, offset, array.dtype.str, array.shape, array.strides)


def _span(array: Array) -> tuple[int, int]:
    """Addresses of the first byte of ``array`` and behind its last one."""
    if not array.size or array.flags.c_contiguous:
        start = array.ctypes.data
        return start, start + array.nbytes
    low, high = np.lib.array_utils.byte_bounds(array)
    return int(low), int(high)
