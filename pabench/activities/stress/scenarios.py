# SPDX-License-Identifier: Apache-2.0
"""The scenarios: each makes an allocator, does its worst and returns figures.

Figures are plain JSON values.  Times are nanoseconds of the host's clock around one call, the first call
apart from the others; everything else is counted.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from pabench.activities.stress.cell import StressCell
from pabench.activities.stress.sound import held_pages, runs, scattered, spread, unsound
from pabench.errors import OutOfPages
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.device_tables import DeviceTables

Make = Callable[[PoolShape], PageAllocator]
Figures = dict[str, Any]
FULL = 0.9
"""Part of the pool that a churn keeps in use."""
WIDEST = 64
"""Pages of the longest sequence of a churn or a fill; lengths are powers of two up to it."""
STEADY_S = 0.5
"""Seconds after which a sized scenario is not repeated any more."""
STEADY_CALLS = 20
REFUSALS = 20
OVERSUBSCRIBED = 4


class Unsound(Exception):
    """The allocator broke a promise; the text says which."""


class Clock:
    """Times calls by name, the first apart from the others."""

    def __init__(self) -> None:
        self._samples: dict[str, list[int]] = {}

    def time(self, name: str, call: Callable[[], Any]) -> Any:
        """Return what ``call`` returns; one that raises is timed too."""
        began = time.perf_counter_ns()
        try:
            return call()
        finally:
            self._samples.setdefault(name, []).append(time.perf_counter_ns() - began)

    def figures(self) -> Figures:
        """Return ``<name>_first_ns`` and ``<name>_ns``, the later calls."""
        found: Figures = {}
        for name, samples in self._samples.items():
            found |= {f"{name}_first_ns": samples[0], f"{name}_ns": samples[1:]}
        return found


def requests(cell: StressCell, make: Make, alive: Callable[[], None]) -> Figures:
    """``cell.size`` sequences take a page each in one step, then go."""
    shape = pool(cell, cell.size, cell.size, 1)
    clock, everyone = Clock(), range(cell.size)
    allocator: PageAllocator = clock.time("make", lambda: make(shape))
    began = time.monotonic()
    batch = grows_in_batches(allocator)
    take = grow_all if batch else take_one_by_one
    for turn in range(STEADY_CALLS + 1):
        if batch:
            start_all(allocator, cell.size)
            alive()
        clock.time("take", lambda: take(allocator, cell.size, cell.page_size))
        alive()
        if not turn:
            check(allocator, pages=cell.size)
        clock.time("give", lambda: allocator.free(everyone))
        alive()
        if turn and time.monotonic() - began > STEADY_S:
            break
    check(allocator, pages=0)
    return {"requests": cell.size, "served": cell.size, **clock.figures()}


def pages(cell: StressCell, make: Make, alive: Callable[[], None]) -> Figures:
    """One sequence of ``cell.size`` pages comes and goes."""
    shape, clock = pool(cell, cell.size, 1, cell.size), Clock()
    tokens = cell.size * cell.page_size
    allocator: PageAllocator = clock.time("make", lambda: make(shape))
    began = time.monotonic()
    for turn in range(STEADY_CALLS + 1):
        clock.time("take", lambda: allocator.alloc(0, tokens, final_tokens=tokens))
        alive()
        if not turn:
            check(allocator, pages=cell.size)
        clock.time("give", lambda: allocator.free([0]))
        alive()
        if turn and time.monotonic() - began > STEADY_S:
            break
    check(allocator, pages=0)
    return {"requests": 1, "served": 1, **clock.figures()}


def churn(cell: StressCell, make: Make, alive: Callable[[], None]) -> Figures:
    """Replace a third of the sequences of a pool that stays full, ``cell.rounds`` times."""
    rng, clock = random.Random(cell.seed), Clock()
    allocator = make(pool(cell, cell.num_pages, cell.num_pages, WIDEST))
    held: dict[int, int] = {}
    unused = list(range(cell.num_pages))
    refused, asked = 0, 0
    names = ("occupancy", "spread", "scattered", "run_pages", "copies")
    series: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(cell.rounds):
        gone = rng.sample(sorted(held), len(held) // 3)
        if gone:
            clock.time("give", partial(allocator.free, gone))
        for sequence in gone:
            del held[sequence]
            unused.append(sequence)
        while sum(held.values()) < FULL * cell.num_pages:
            asked += 1
            sequence, wanted = unused[-1], wide(rng, cell)
            try:
                clock.time("take", partial(start_one, allocator, sequence, wanted * cell.page_size))
            except OutOfPages:
                refused += 1
                break  # one that lies in pieces says no before it is full
            held[unused.pop()] = wanted
        alive()
        check(allocator, pages=sum(held.values()))
        now = held_pages(allocator)
        found = (now.size / cell.num_pages, spread(now), scattered(allocator), *runs(allocator))
        for name, value in zip(names, found, strict=True):
            series[name].append(value)
    return {"requests": asked, "served": asked - refused, "refused": refused, **series, **clock.figures()}


def oversubscription(cell: StressCell, make: Make, alive: Callable[[], None]) -> Figures:
    """Four requests a page at once, one by one where there are no batches; then more when all is taken."""
    count, clock = OVERSUBSCRIBED * cell.num_pages, Clock()
    allocator = make(pool(cell, cell.num_pages, count + 1, 1))
    served = 0
    if grows_in_batches(allocator):
        start_all(allocator, count)
        alive()
        try:
            step = clock.time("step", lambda: grow_all(allocator, count, 1))
            served = count - step.refused.size
        except OutOfPages:
            pass  # the mode `all`: nobody is served, and nothing changes
        check(allocator, pages=served)
        if not served:
            clock.time("fitting", lambda: grow_all(allocator, cell.num_pages, 1))
            served = cell.num_pages
    else:
        for sequence in range(count):
            try:
                allocator.alloc(sequence, 1)
            except OutOfPages:
                break
            served += 1
            if not sequence % 1024:
                alive()
    alive()
    check(allocator, pages=served)
    for _ in range(REFUSALS):
        try:
            clock.time("refusal", lambda: allocator.alloc(count, 1))
        except OutOfPages:
            continue
        raise Unsound("a page was granted when none was left")
    check(allocator, pages=served)
    return {"requests": count, "served": served, "refused": count - served, **clock.figures()}


def fill(cell: StressCell, make: Make, alive: Callable[[], None]) -> Figures:
    """Fill a new pool with sequences of mixed lengths until the first refusal, ``cell.rounds`` times."""
    tokens_held, pages_held = [], []
    slots = cell.num_pages * cell.page_size
    asked = 0
    for turn in range(min(cell.rounds, STEADY_CALLS)):
        rng = random.Random(cell.seed * 10_007 + turn)
        allocator = make(pool(cell, cell.num_pages, cell.num_pages, WIDEST))
        tokens, sequence = 0, 0
        while sequence < cell.num_pages:
            length = rng.randint(1, wide(rng, cell) * cell.page_size)
            asked += 1
            try:
                allocator.alloc(sequence, length, final_tokens=length)
            except OutOfPages:
                break
            tokens, sequence = tokens + length, sequence + 1
        alive()
        check(allocator, pages=None)
        tokens_held.append(tokens / slots)
        pages_held.append(held_pages(allocator).size / cell.num_pages)
    served = asked - len(tokens_held)
    return {"requests": asked, "served": served, "utilisation": tokens_held, "occupancy": pages_held}


RUN: dict[str, Callable[[StressCell, Make, Callable[[], None]], Figures]] = {
    "requests": requests,
    "pages": pages,
    "churn": churn,
    "oversubscription": oversubscription,
    "fill": fill,
}
"""Scenario to what runs it: given the cell, a maker of empty allocators, and what to call as it goes on."""


def pool(cell: StressCell, num_pages: int, max_seqs: int, width: int) -> PoolShape:
    """Return the shape of a cell's pool."""
    return PoolShape(
        num_pages=num_pages, page_size=cell.page_size, max_seqs=max_seqs, max_pages_per_seq=width
    )


def wide(rng: random.Random, cell: StressCell) -> int:
    """Return a power of two of pages, all equally likely."""
    return min(1 << rng.randint(0, WIDEST.bit_length() - 1), cell.num_pages // 4)


def grows_in_batches(allocator: PageAllocator) -> bool:
    """Whether empty sequences can take their pages in one step; who reserves has taken them before."""
    can = allocator.capabilities
    return "append_batch" in can.operations and can.refusal != "fragmenting"


def start_all(allocator: PageAllocator, count: int) -> None:
    """Start sequences 0 to ``count - 1`` without tokens."""
    if isinstance(allocator, DeviceTables):
        allocator.start_empty(count)
        return
    for sequence in range(count):
        allocator.alloc(sequence, 0)


def grow_all(allocator: PageAllocator, count: int, tokens: int) -> Any:
    """Let sequences 0 to ``count - 1`` grow in one step."""
    return allocator.append_batch(np.arange(count), tokens)


def take_one_by_one(allocator: PageAllocator, count: int, tokens: int) -> None:
    """Start sequences 0 to ``count - 1`` with their tokens."""
    for sequence in range(count):
        start_one(allocator, sequence, tokens)


def start_one(allocator: PageAllocator, sequence: int, tokens: int) -> None:
    """Start a sequence that stays as long as it is, and say so to those who reserve."""
    allocator.alloc(sequence, tokens, final_tokens=tokens)


def check(allocator: PageAllocator, *, pages: int | None) -> None:
    """Raise ``Unsound`` when pages are shared, lost, or not as many as there have to be."""
    if found := unsound(allocator):
        raise Unsound(found)
    if pages is not None and (held := held_pages(allocator).size) != pages:
        raise Unsound(f"{held} pages are held, must be {pages}")
