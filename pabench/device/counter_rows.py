# SPDX-License-Identifier: Apache-2.0
"""What counters are made of: rows by line, by buffer and by matrix shape, and how they add up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LocationCounts:
    """What one line of a kernel did within one region, to one buffer.

    Attributes:
        file, line: of the source; line 0 where the compiler left none behind.
        region: name given by ``PAB_REGION``, or empty.
        event: ``load``, ``store``, ``async load``, ``barrier``, ``shuffle``, ``add`` (atomic), ...
        memory: name of the buffer, ``shared memory``, or empty for what touches no memory.
        requests: instructions of warps.
        lanes: threads that took part, over all requests.
        nbytes: bytes asked for, a byte that two lanes ask for counted twice.
        sectors: of 32 bytes, distinct within each request; global memory only.
        ideal_sectors: the least that the bytes of each request could take.
        wavefronts: passes over the banks; shared memory only.
        ideal_wavefronts: the same without bank conflicts.
        addresses: distinct addresses within each request; atomic operations only.
    """

    file: str
    line: int
    region: str
    event: str
    memory: str
    requests: int = 0
    lanes: int = 0
    nbytes: int = 0
    sectors: int = 0
    ideal_sectors: int = 0
    wavefronts: int = 0
    ideal_wavefronts: int = 0
    addresses: int = 0

    @property
    def key(self) -> tuple[str, int, str, str, str]:
        """Return what tells rows apart and orders them."""
        return self.file, self.line, self.region, self.event, self.memory


LOCATION_FIGURES = (
    *("requests", "lanes", "nbytes", "sectors", "ideal_sectors", "wavefronts", "ideal_wavefronts"),
    "addresses",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferCounts:
    """Distinct 32-byte sectors of one buffer, in each launch: what memory must deliver and take at least.

    Attributes:
        name: the kernel's parameters that point into it, joined by ``+``, or the name of the allocation.
        loaded_sectors: that were read; atomic operations read too.
        stored_sectors: that were written.
    """

    name: str
    loaded_sectors: int = 0
    stored_sectors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixCounts:
    """Matrix products of one shape within one region."""

    shape: str
    region: str
    count: int


def merge_locations(rows: Iterable[LocationCounts]) -> tuple[LocationCounts, ...]:
    """Return rows of the same line, region, event and buffer added up, sorted."""
    sums: dict[tuple[str, int, str, str, str], dict[str, int]] = {}
    for row in rows:
        figures = sums.setdefault(row.key, dict.fromkeys(LOCATION_FIGURES, 0))
        for name in LOCATION_FIGURES:
            figures[name] += getattr(row, name)
    return tuple(
        LocationCounts(file=file, line=line, region=region, event=event, memory=memory, **figures)
        for (file, line, region, event, memory), figures in sorted(sums.items())
    )


def merge_buffers(rows: Iterable[BufferCounts]) -> tuple[BufferCounts, ...]:
    """Return rows of the same name added up, sorted."""
    sums: dict[str, tuple[int, int]] = {}
    for row in rows:
        loaded, stored = sums.get(row.name, (0, 0))
        sums[row.name] = (loaded + row.loaded_sectors, stored + row.stored_sectors)
    return tuple(
        BufferCounts(name=name, loaded_sectors=loaded, stored_sectors=stored)
        for name, (loaded, stored) in sorted(sums.items())
    )


def merge_products(rows: Iterable[MatrixCounts]) -> tuple[MatrixCounts, ...]:
    """Return rows of the same shape and region added up, sorted."""
    sums: dict[tuple[str, str], int] = {}
    for row in rows:
        sums[row.shape, row.region] = sums.get((row.shape, row.region), 0) + row.count
    return tuple(
        MatrixCounts(shape=shape, region=region, count=count)
        for (shape, region), count in sorted(sums.items())
    )
