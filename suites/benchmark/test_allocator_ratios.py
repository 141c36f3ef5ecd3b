# SPDX-License-Identifier: Apache-2.0
"""How long the host allocator takes beside others, and beside itself in pools of other sizes.

Every round times all of them, one after the other, so that a busy machine is busy for all; what is printed
are ratios of medians.  Nothing is asserted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np
import pytest

from pabench.errors import Unsupported
from pabench.subjects.allocators.adapters.vllm import VllmKvCacheManager, running_request
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.registry import load_allocator

Say = Callable[[str], None]
Calls = Mapping[str, Callable[[], Any]]
SEQUENCES, PAGE_SIZE, PAGES, TOKENS = 256, 16, 1000, 160
POOLS = {"1K": 2**10, "32K": 2**15, "1M": 2**20}


def host(num_pages: int, *, width: int = 1024) -> HostAllocator:
    shape = PoolShape(num_pages=num_pages, page_size=PAGE_SIZE, max_seqs=SEQUENCES, max_pages_per_seq=width)
    return HostAllocator(shape)


def beside(benchmark: Any, calls: Calls, *, rounds: int = 40, times: Mapping[str, int]) -> dict[str, float]:
    """Time all calls in each round; return the median us of one call of each, of the process's time."""
    samples: dict[str, list[float]] = {name: [] for name in calls}

    def one_round() -> None:
        for name, call in calls.items():
            began = time.process_time_ns()
            for _ in range(times[name]):
                call()
            samples[name].append((time.process_time_ns() - began) / times[name] / 1e3)

    benchmark.pedantic(one_round, rounds=rounds, iterations=1, warmup_rounds=2)
    return {name: median(found[2:] or found) for name, found in samples.items()}


def test_host_decode_step_beside_vllm(benchmark: Any, say: Say) -> None:
    """One token for each of 256 sequences: one call of ours, one each, vLLM's allocate_slots for each.

    vLLM's manager is called directly, with requests made before, so that nothing of the adapter is timed.
    """
    try:
        load_allocator("vllm-kv-cache-manager")
    except Unsupported as lacking:
        pytest.skip(str(lacking))
    shape = PoolShape(num_pages=2**15, page_size=PAGE_SIZE, max_seqs=SEQUENCES, max_pages_per_seq=1024)
    ours, manager = HostAllocator(shape), VllmKvCacheManager(shape).manager
    everyone = np.arange(SEQUENCES)
    requests = []
    for sequence in range(SEQUENCES):
        tokens = TOKENS + sequence % PAGE_SIZE
        ours.alloc(sequence, tokens)
        request = running_request(sequence, 0)
        manager.allocate_slots(request, tokens)
        request.num_computed_tokens = request.num_tokens = tokens
        requests.append(request)

    def theirs() -> None:
        for request in requests:
            manager.allocate_slots(request, 1)
            request.num_computed_tokens += 1
            request.num_tokens += 1

    def one_by_one() -> None:
        for sequence in range(SEQUENCES):
            ours.append(sequence, 1)

    calls: Calls = {"host": lambda: ours.append_batch(everyone, 1), "each": one_by_one, "vllm": theirs}
    us = beside(benchmark, calls, times={"host": 30, "each": 5, "vllm": 1})
    assert int(ours.lengths()[0]) > TOKENS
    assert len(manager.get_block_ids("0")[0]) == -(-requests[0].num_tokens // PAGE_SIZE)
    shown = f"host {us['host']:.1f} us in one call and {us['each']:.0f} us in 256"
    ratios = f"{us['vllm'] / us['host']:.0f} x and {us['vllm'] / us['each']:.1f} x"
    say(f"{shown}, vLLM's KVCacheManager {us['vllm']:.0f} us: {ratios}")


def test_host_takes_and_gives_many_pages(benchmark: Any, say: Say) -> None:
    """A sequence of 1,000 pages comes and goes: two operations a page."""
    allocator = host(2**15)

    def pair() -> None:
        allocator.alloc(0, PAGES * PAGE_SIZE)
        allocator.free((0,))

    us = beside(benchmark, {"pair": pair}, times={"pair": 100})["pair"]
    say(f"{1e3 * us / PAGES / 2:.2f} ns a page and operation, {1e3 * us / PAGES:.2f} ns for both")


@pytest.mark.parametrize("what", ["decode step", "alloc and free", "append", "fork, copy, free"])
def test_host_costs_the_same_in_pools_of_any_size(benchmark: Any, say: Say, what: str) -> None:
    """The same operations in pools of 1K, 32K and 1M pages."""
    calls = {name: _call(host(num_pages), what) for name, num_pages in POOLS.items()}
    us = beside(benchmark, calls, times=dict.fromkeys(calls, 20))
    shown = ", ".join(f"{name} {value:.2f} us" for name, value in us.items())
    say(f"{shown}; 1M over 1K pages: {us['1M'] / us['1K']:.2f}")


def _call(allocator: HostAllocator, what: str) -> Callable[[], Any]:
    if what == "decode step":
        few = np.arange(32)
        for sequence in few.tolist():
            allocator.alloc(sequence, 1)
        return lambda: _step(allocator, few)
    allocator.alloc(0, 155)
    if what == "append":
        return lambda: _step(allocator, np.arange(1))
    return lambda: _come_and_go(allocator, forked=what != "alloc and free")


def _come_and_go(allocator: HostAllocator, *, forked: bool) -> None:
    """A sequence of 100 pages, or a fork that takes a copy of its last page."""
    if forked:
        allocator.fork(0, 1)
        allocator.append(1, 1)
    else:
        allocator.alloc(1, 100 * PAGE_SIZE)
    allocator.free((1,))


def _step(allocator: HostAllocator, sequences: Any) -> None:
    """A token for each; cut back where the small pool would run out, in all pools alike."""
    allocator.append_batch(sequences, 1)
    if allocator.length(0) == 20 * PAGE_SIZE:
        for sequence in sequences.tolist():
            allocator.truncate(sequence, 1)
