# SPDX-License-Identifier: Apache-2.0
"""Random operations on allocators, and their outcomes in a form that can be compared."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.errors import InvalidCase, OutOfPages
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.results import Granted, Hit, Prompt
from pabench.subjects.registry import load_allocator

Call = Callable[[PageAllocator], Any]


def shape_of(num_pages: int, page_size: int, max_seqs: int, width: int, **more: Any) -> PoolShape:
    return PoolShape(
        num_pages=num_pages, page_size=page_size, max_seqs=max_seqs, max_pages_per_seq=width, **more
    )


def make_allocator(name: str, device: Device, shape: PoolShape) -> PageAllocator:
    return load_allocator(name).make(device, shape)


def plain(result: Any) -> Any:
    """A result as plain values."""
    if isinstance(result, Granted):
        return {name: plain(getattr(result, name)) for name in ("slots", "copies", "refused")}
    if isinstance(result, np.ndarray):
        return result.dtype.name, result.shape, result.tolist()
    return result


def outcome(allocator: PageAllocator, call: Call) -> Any:
    try:
        return plain(call(allocator))
    except OutOfPages as error:
        return str(error)
    except InvalidCase as error:
        return type(error).__name__


def state(allocator: PageAllocator) -> tuple[Any, ...]:
    coming = allocator.evictable_pages, allocator.returning_pages, allocator.pinned_pages
    lower = allocator.free_host_pages, allocator.cached_host_pages
    counts = (allocator.free_pages, *coming, *lower, allocator.free_swap_pages)
    away = tuple(allocator.swapped(sequence) for sequence in range(allocator.shape.max_seqs))
    refcounts = allocator.refcounts()
    held = None if refcounts is None else refcounts.tolist()
    return allocator.lengths().tolist(), allocator.block_table().tolist(), counts, away, held


def random_call(rng: random.Random, shape: PoolShape, live: list[int], operations: set[str]) -> Call:
    """One operation, mostly sensible."""
    name = rng.choice(sorted(operations))
    some = rng.choice([*live, rng.randrange(-1, shape.max_seqs + 1)])
    other = rng.randrange(shape.max_seqs)
    count = rng.randrange(-1 if rng.random() < 0.05 else 0, 2 * shape.page_size + 2)
    prompt = Prompt(
        tokens=tuple(int(rng.randrange(8) == 0) for _ in range(rng.randrange(4 * shape.page_size + 2))),
        adapter=rng.choice(["", "", "x"]),
        salt=rng.choice(["", "", "x"]),
    )
    batch = rng.sample(live, rng.randrange(len(live) + 1)) if live else [some]
    counts = [rng.randrange(2 * shape.page_size + 2) for _ in batch]
    whole = np.array(batch, np.int64) if rng.random() < 0.5 else batch

    def adopt(allocator: PageAllocator, hit: Hit | None = None) -> Any:
        copies = allocator.adopt(other, hit or allocator.lookup(prompt))
        return None if copies is None or not len(copies) else copies  # who never copies says nothing

    calls: dict[str, Call] = {
        "alloc": lambda a: a.alloc(other, count),
        "append": lambda a: a.append(some, count),
        "append_batch": lambda a: a.append_batch(whole, counts),
        "decode": lambda a: a.append_batch(np.array(sorted(batch), np.int64), 1),
        "fork": lambda a: a.fork(some, other),
        "truncate": lambda a: a.truncate(some, count),
        "free": lambda a: a.free([some, *batch[:1]]),
        "free_window": lambda a: a.free_window(some, count),
        "commit": lambda a: a.commit(some, prompt),
        "lookup": lambda a: a.lookup(prompt),
        "adopt": adopt,
        "forge": lambda a: adopt(a, Hit(prompt=prompt, pages=(count,))),
        "evict": lambda a: a.evict(count),
        "defragment": lambda a: a.defragment(),
        "swap_out": lambda a: a.swap_out(some),
        "swap_in": lambda a: a.swap_in(some),
        "move_down": lambda a: a.move_down(count),
        "load": lambda a: a.load(prompt),
        "end_copy": lambda a: a.end_copy(),
        "retain": lambda a: a.retain(prompt, count, None),
        "pass_time": lambda a: a.pass_time(count),
        "pin": lambda a: a.pin(a.lookup(prompt)),
        "unpin": lambda a: a.unpin(a.lookup(prompt)),
        "begin_step": lambda a: a.begin_step(),
        "end_step": lambda a: a.end_step(),
        "reset": lambda a: a.reset(),
    }
    return calls[name]
