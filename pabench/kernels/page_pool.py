# SPDX-License-Identifier: Apache-2.0
"""Device state of the pools without an order, and launches of ``page_alloc_pool.cu``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.device.base import Device, Launch, Module
from pabench.kernels.instance import KernelEntry, KernelInstance, kernel_source
from pabench.problem.checks import one_of
from pabench.problem.dtypes import Array

FILE = "page_alloc_pool.cu"
KINDS = {"ticket": 0, "stack": 1}
THREADS = 128
NO_PAGE = 0xFFFFFFFF
EXTEND, FREE, BATCH, CHURN = (f"page_pool_{step}" for step in ("extend", "free", "batch", "churn"))

SERVED, REFUSED, OUTGROWS, NOT_LIVE, WRONG = range(5)
"""What became of an entry, as in ``pab/page_requests.cuh``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoolState:
    """A pool on the device; words and store as in ``pab/pool_ticket.cuh`` and ``pool_stack.cuh``."""

    device: Device
    module: Module
    kind: str
    num_pages: int
    words: Any
    store: Any

    @property
    def store_mask(self) -> np.uint32:
        """The capacity less 1, where it is a power of two."""
        return np.uint32(self.store.shape[0] - 1)


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table."""
    entries = tuple(KernelEntry(name=name, threads=THREADS) for name in (EXTEND, FREE, BATCH, CHURN))
    for kind, code in KINDS.items():
        yield KernelInstance(file=FILE, label=kind, defines={"PAB_POOL": code}, entries=entries)


def new_pool(device: Device, kind: str, num_pages: int, **defines: int) -> PoolState:
    """Return a pool in which pages 0 to ``num_pages - 1`` are free.

    Args:
        device: where it lies.
        kind: of ``KINDS``.
        num_pages: at most 2^30.
        defines: macros of a build for tests, such as ``PAB_TAG_BITS``.
    """
    one_of("kind", kind, tuple(KINDS))
    if kind == "ticket":
        store = np.zeros(1 << (num_pages - 1).bit_length(), np.uint32)
        store[:num_pages] = np.arange(1, num_pages + 1)
        words = np.array([num_pages << 32, num_pages], np.uint64)
    else:
        store = np.arange(1, num_pages + 1, dtype=np.uint32)
        store[-1] = NO_PAGE
        words = np.zeros(2, np.uint64)
    source = kernel_source(device, FILE, PAB_POOL=KINDS[kind], **defines)
    return PoolState(
        device=device,
        module=device.load(source),
        kind=kind,
        num_pages=num_pages,
        words=device.to_device(words),
        store=device.to_device(store),
    )


def free_list(pool: PoolState) -> list[int]:
    """Return the pages that are free, next to be taken first, when no launch is under way.

    A pool that has gone wrong may give any list of up to ``num_pages + 1`` entries; -1 is no page.
    """
    words, store = (pool.device.to_host(array) for array in (pool.words, pool.store))
    if pool.kind == "ticket":
        ticket, free = int(words[0]) & NO_PAGE, int(words[0]) >> 32
        places = (ticket + np.arange(min(free, pool.num_pages + 1))) % store.size
        listed: list[int] = (store[places].astype(np.int64) - 1).tolist()
        return listed
    found: list[int] = []
    page, after = int(words[0]) & NO_PAGE, store.tolist()
    while page != NO_PAGE and len(found) <= pool.num_pages:
        found.append(page)
        page = after[page] if page < pool.num_pages else NO_PAGE
    return found


def extend(
    pool: PoolState,
    tables: tuple[Any, Any],
    request: tuple[Any, Any, Any],
    slots: Any,
    results: Any,
    size: int,
) -> None:
    """Launch a step that grows sequences, each served or refused by itself.

    Args:
        pool: changed in place.
        tables: lengths int32 ``(max_seqs,)`` and block table int32 ``(max_seqs, max_pages)``.
        request: sequences and tokens, int32 ``(max_seqs,)``, and where each entry's slots go, int64.
        slots: int64, one for each token.
        results: int32 ``(max_seqs,)``: what became of each entry, -1 without request.
        size: tokens of a page.
    """
    args = (*request, pool.words, pool.store, *tables, slots, results, pool.store_mask)
    _launch(pool, EXTEND, args + _sizes(tables, size), tables[0].shape[0])


def free(pool: PoolState, tables: tuple[Any, Any], sequences: Any, results: Any, size: int) -> None:
    """Launch a step that ends sequences; arguments as for ``extend``."""
    args = (sequences, pool.words, pool.store, *tables, results, pool.store_mask)
    _launch(pool, FREE, args + _sizes(tables, size), tables[0].shape[0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stamps:
    """Marks by which a launch finds out for itself that a page had two owners or none.

    Attributes:
        owners: device array, uint32 ``(num_pages,)``: owner + 1, 0 for none.
        words: device array, uint32 ``(2 * num_pages,)``: what owners wrote.
        violations: device array, uint32 ``(3,)``: taken while owned, given while not owned, words torn apart.
    """

    owners: Any
    words: Any
    violations: Any


def new_stamps(pool: PoolState, held: Array) -> Stamps:
    """Return stamps of a pool of which the pages ``held`` are in somebody's hands."""
    owners = np.zeros(pool.num_pages, np.uint32)
    owners[held] = NO_PAGE
    words = np.tile(np.array([0, NO_PAGE], np.uint32), pool.num_pages)
    device = pool.device
    return Stamps(
        owners=device.to_device(owners),
        words=device.to_device(words),
        violations=device.zeros((3,), np.dtype(np.uint32)),
    )


def batch(pool: PoolState, stamps: Stamps, counts: Array, frees: Array) -> tuple[Any, Any]:
    """Launch requests for ``counts`` pages and returns of the pages ``frees`` at the same time.

    Returns:
        Device arrays: pages int32 ``(n, max(counts))`` and whether each request was served, int32 ``(n,)``.
    """
    device, takers, givers = pool.device, len(counts), len(frees)
    width = max(1, int(counts.max(initial=0)))
    out: Any = device.to_device(np.full((max(1, takers), width), -1, np.int32))
    served: Any = device.to_device(np.full(max(1, takers), -1, np.int32))
    asked = [device.to_device(np.asarray(given, np.int32)) for given in ([*counts, 0], [*frees, 0])]
    args = (
        *(*asked, pool.words, pool.store, stamps.owners, stamps.words, stamps.violations, out, served),
        *(pool.store_mask, np.int32(takers), np.int32(givers), np.int32(width)),
    )
    _launch(pool, BATCH, args, takers + givers)
    return out, served[:takers]


def churn(pool: PoolState, stamps: Stamps, *, blocks: int, threads: int, rounds: int, most: int) -> Any:
    """Let every thread take up to ``most`` pages, write to them and give them back, ``rounds`` times.

    Returns:
        Device array, int32 ``(blocks * threads,)``: how often each thread was served.
    """
    count = blocks * threads
    device = pool.device
    out: Any = device.to_device(np.full((count, most), -1, np.int32))
    served: Any = device.zeros((count,), np.dtype(np.int32))
    ended: Any = device.zeros((1,), np.dtype(np.uint32))
    args = (
        *(pool.words, pool.store, stamps.owners, stamps.words, stamps.violations, out, served, ended),
        *(pool.store_mask, np.int32(rounds), np.int32(most)),
    )
    launch = Launch(entry=CHURN, grid=(blocks, 1, 1), block=(threads, 1, 1), args=args)
    pool.module.launch(launch)
    return served


def _sizes(tables: tuple[Any, Any], size: int) -> tuple[Any, ...]:
    max_seqs, max_pages = tables[1].shape
    return np.int32(max_seqs), np.int32(max_pages), np.int32(size)


def _launch(pool: PoolState, entry: str, args: tuple[Any, ...], threads: int) -> None:
    grid = (max(1, -(-threads // THREADS)), 1, 1)
    pool.module.launch(Launch(entry=entry, grid=grid, block=(THREADS, 1, 1), args=args))
