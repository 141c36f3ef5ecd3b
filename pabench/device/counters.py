# SPDX-License-Identifier: Apache-2.0
"""What a counted launch did: instructions of warps, sectors, wavefronts; exact, and the same in every run.

A request is one instruction of a warp.  Figures are whole numbers; nothing here is a time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from operator import add
from typing import Any

from pabench.device.counter_rows import (
    BufferCounts,
    LocationCounts,
    MatrixCounts,
    merge_buffers,
    merge_locations,
    merge_products,
)

LOADS = ("load", "async load")
COLLECTIVES = ("warp_sync", "shuffle", "ballot", "any", "all", "match_any", "reduce_add", "matrix")
ATOMICS = ("exch", "add", "sub", "and", "or", "xor", "cas", "max", "min")
FENCES = ("fence block", "fence device")
SHARED = "shared memory"
SHAPE = re.compile(r"m(\d+)n(\d+)k(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over lines, of a launch or of one region.

    Attributes:
        load_requests, store_requests: of global memory, atomic operations left out, asynchronous loads not.
        load_bytes, store_bytes: asked for.
        load_sectors, store_sectors: distinct within each request.
        shared_requests: of shared memory, loads, stores and atomic operations.
        wavefronts: of shared memory.
        bank_conflicts: wavefronts beyond those of the same requests without conflicts.
        atomics: requests by kind, global and shared.
        atomic_sectors: of global memory.
        atomic_addresses: distinct within each request.
        collectives: requests by kind.
        barriers, fences: requests.
        async_copies: requests.
        async_copy_bytes: written to shared memory.
        async_commits: groups closed, by warps.
        matrix_products: instructions of warps by shape.
    """

    load_requests: int
    store_requests: int
    load_bytes: int
    store_bytes: int
    load_sectors: int
    store_sectors: int
    shared_requests: int
    wavefronts: int
    bank_conflicts: int
    atomics: dict[str, int]
    atomic_sectors: int
    atomic_addresses: int
    collectives: dict[str, int]
    barriers: int
    fences: int
    async_copies: int
    async_copy_bytes: int
    async_commits: int
    matrix_products: dict[str, int]

    @property
    def matrix_flops(self) -> int:
        """Return operations of the matrix products, from shapes such as ``m16n8k16.f16``."""
        flops = 0
        for shape, count in self.matrix_products.items():
            sizes = SHAPE.match(shape)
            flops += count * 2 * math.prod(int(size) for size in sizes.groups()) if sizes else 0
        return flops

    @property
    def sectors_per_request(self) -> float:
        """Return sectors over requests of global loads and stores; 0 without any.

        A warp that reads 4 bytes a lane, side by side, takes 4; 32 means that each lane has its own sector.
        """
        requests = self.load_requests + self.store_requests
        return (self.load_sectors + self.store_sectors) / requests if requests else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The counters of one launch, or of several of one kernel added up.

    Attributes:
        kernel: entry point.
        launches: how many are added up.
        locations: by line, sorted.
        buffers: distinct sectors by buffer, sorted by name; of several launches the sum.
        products: matrix products, sorted.
    """

    kernel: str
    launches: int
    locations: tuple[LocationCounts, ...]
    buffers: tuple[BufferCounts, ...]
    products: tuple[MatrixCounts, ...]

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            kernel=self.kernel,
            launches=self.launches + other.launches,
            locations=merge_locations((*self.locations, *other.locations)),
            buffers=merge_buffers((*self.buffers, *other.buffers)),
            products=merge_products((*self.products, *other.products)),
        )

    @property
    def regions(self) -> tuple[str, ...]:
        """Return the names of all regions, the empty one for code outside any, sorted."""
        return tuple(sorted({row.region for row in self.locations} | {one.region for one in self.products}))

    def totals(self, *, region: str | None = None) -> Totals:
        """Return sums over all lines, or over those of one region."""
        rows = [row for row in self.locations if region is None or row.region == region]
        products = [one for one in self.products if region is None or one.region == region]
        plain = [row for row in rows if row.memory not in ("", SHARED) and row.event not in ATOMICS]
        loads = [row for row in plain if row.event in LOADS]
        stores = [row for row in plain if row.event == "store"]
        shared = [row for row in rows if row.memory == SHARED]
        atomics = [row for row in rows if row.event in ATOMICS]
        copies = [row for row in rows if row.event == "async store"]
        return Totals(
            load_requests=_sum(loads, "requests"),
            store_requests=_sum(stores, "requests"),
            load_bytes=_sum(loads, "nbytes"),
            store_bytes=_sum(stores, "nbytes"),
            load_sectors=_sum(loads, "sectors"),
            store_sectors=_sum(stores, "sectors"),
            shared_requests=_sum(shared, "requests"),
            wavefronts=_sum(shared, "wavefronts"),
            bank_conflicts=_sum(shared, "wavefronts") - _sum(shared, "ideal_wavefronts"),
            atomics=_by_kind(rows, ATOMICS),
            atomic_sectors=_sum(atomics, "sectors"),
            atomic_addresses=_sum(atomics, "addresses"),
            collectives=_by_kind(rows, COLLECTIVES),
            barriers=_sum([row for row in rows if row.event == "barrier"], "requests"),
            fences=_sum([row for row in rows if row.event in FENCES], "requests"),
            async_copies=_sum(copies, "requests"),
            async_copy_bytes=_sum(copies, "nbytes"),
            async_commits=_sum([row for row in rows if row.event == "async commit"], "requests"),
            matrix_products={
                shape: sum(one.count for one in products if one.shape == shape)
                for shape in sorted({one.shape for one in products})
            },
        )

    @property
    def distinct_loaded_sectors(self) -> int:
        """Return the sectors that each launch read at least once: the least that memory must deliver."""
        return sum(buffer.loaded_sectors for buffer in self.buffers)

    @property
    def distinct_stored_sectors(self) -> int:
        """Return the sectors that each launch wrote at least once."""
        return sum(buffer.stored_sectors for buffer in self.buffers)

    def of(self, *parameters: str, events: Sequence[str] = LOADS) -> tuple[LocationCounts, ...]:
        """Return the rows of the buffers that any of the kernel's ``parameters`` points into."""
        wanted = set(parameters)
        return tuple(
            row for row in self.locations if row.event in events and wanted & set(row.memory.split("+"))
        )

    def loaded_bytes(self, *parameters: str) -> int:
        """Return the bytes asked for from the buffers of ``parameters``."""
        return _sum(self.of(*parameters), "nbytes")

    def stored_bytes(self, *parameters: str) -> int:
        """Return the bytes stored to the buffers of ``parameters``."""
        return _sum(self.of(*parameters, events=("store",)), "nbytes")

    def load_requests(self, *parameters: str) -> int:
        """Return the load requests to the buffers of ``parameters``."""
        return _sum(self.of(*parameters), "requests")

    def memory_figures(self) -> dict[str, Any]:
        """Return what global and shared memory were asked for, by the names of the journal."""
        totals = self.totals()
        return {
            "counted_load_sectors": totals.load_sectors,
            "counted_store_sectors": totals.store_sectors,
            "distinct_sectors": self.distinct_loaded_sectors + self.distinct_stored_sectors,
            "sectors_per_request": totals.sectors_per_request,
            "wavefronts": totals.wavefronts,
            "bank_conflicts": totals.bank_conflicts,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: totals, totals by region, distinct sectors, lines."""
        return {
            "kernel": self.kernel,
            "launches": self.launches,
            "totals": asdict(self.totals()),
            "regions": {name: asdict(self.totals(region=name)) for name in self.regions if name},
            "distinct_loaded_sectors": self.distinct_loaded_sectors,
            "distinct_stored_sectors": self.distinct_stored_sectors,
            "buffers": [asdict(buffer) for buffer in self.buffers],
            "locations": [asdict(row) for row in self.locations],
            "matrix_products": [asdict(one) for one in self.products],
        }

    def to_json(self) -> str:
        """Return ``to_dict`` as text; equal for equal counts, byte by byte."""
        return json.dumps(self.to_dict(), indent=1)


def of_all_kernels(counters: Iterable[Counters]) -> Counters:
    """Return the sum over kernels, at least one, under no kernel's name."""
    return reduce(add, (replace(one, kernel="") for one in counters))


def _sum(rows: Iterable[LocationCounts], figure: str) -> int:
    return sum(getattr(row, figure) for row in rows)


def _by_kind(rows: Sequence[LocationCounts], kinds: Sequence[str]) -> dict[str, int]:
    """Requests of each kind that occurs, in the order of ``kinds``."""
    sums = {kind: _sum([row for row in rows if row.event == kind], "requests") for kind in kinds}
    return {kind: count for kind, count in sums.items() if count}
