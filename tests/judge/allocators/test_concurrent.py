# SPDX-License-Identifier: Apache-2.0
"""Pools that many threads share: what the judge knows of them, and what only builds for tests show."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabench.device.emulated import EmulatedDevice
from pabench.errors import DeviceFault
from pabench.judge.allocators.concurrent import PoolTrial, unlawful
from pabench.kernels import page_pool
from pabench.kernels.pool_launches import PoolLaunches

KINDS = sorted(page_pool.KINDS)
SEEDS = range(8)


def churned(pool: page_pool.PoolState, *, threads: int = 128, rounds: int = 60, blocks: int = 1) -> list[int]:
    """Violations after a churn of up to two pages a thread."""
    stamps = page_pool.new_stamps(pool, np.array([], np.int64))
    page_pool.churn(pool, stamps, blocks=blocks, threads=threads, rounds=rounds, most=2)
    return [int(count) for count in stamps.violations]


@given(counts=st.lists(st.integers(1, 4), max_size=5), free=st.integers(0, 8))
def test_allocators_concurrent_judge_knows_every_order_property(counts: list[int], free: int) -> None:
    """Without returns: lawful is what some order of the requests gives, and nothing else."""
    lawful = set()
    for order in permutations(range(len(counts))):
        left, served = free, [0] * len(counts)
        for request in order:
            if counts[request] <= left:
                left -= counts[request]
                served[request] = 1
        lawful.add(tuple(served))
    for bits in range(2 ** len(counts)):
        chosen = tuple((bits >> at) & 1 for at in range(len(counts)))
        if sum(count for count, done in zip(counts, chosen, strict=True) if done) <= free:
            assert (unlawful(counts, chosen, free) is None) == (chosen in lawful)


@pytest.mark.parametrize("bits", [0, 2, 4])
def test_allocators_concurrent_small_tags_fail(bits: int) -> None:
    """A page leaves and comes back while a thread is held up: caught within a few schedules."""
    caught = 0
    for seed in SEEDS:
        device = EmulatedDevice(seed=seed, workers=1)
        pool = page_pool.new_pool(device, "stack", 4, PAB_TAG_BITS=bits)
        caught += churned(pool) != [0, 0, 0] or sorted(page_pool.free_list(pool)) != list(range(4))
    assert caught >= 4


def test_allocators_concurrent_shipped_tag_holds() -> None:
    for seed in SEEDS:
        pool = page_pool.new_pool(EmulatedDevice(seed=seed, workers=1), "stack", 4)
        assert churned(pool) == [0, 0, 0]
        assert sorted(page_pool.free_list(pool)) == list(range(4))


@pytest.mark.parametrize("point", [1, 2, 3])
def test_allocators_concurrent_stack_waits_for_nobody(point: int) -> None:
    """A warp that is held up between any two steps holds up no other."""
    pool = page_pool.new_pool(EmulatedDevice(poll_seconds=5), "stack", 256, PAB_STALL=point)
    assert churned(pool, threads=64, rounds=5, blocks=2) == [0, 0, 0]


@pytest.mark.parametrize("point", [1, 2])
def test_allocators_concurrent_ticket_blocks_as_declared(point: int) -> None:
    pool = page_pool.new_pool(EmulatedDevice(poll_seconds=1), "ticket", 256, PAB_STALL=point)
    with pytest.raises(DeviceFault, match="polled memory for more than 1 s without end"):
        churned(pool, threads=64, rounds=10, blocks=2)


@pytest.mark.parametrize("kind", KINDS)
def test_allocators_concurrent_every_power_of_two(kind: str) -> None:
    """One page a thread, four times as many threads as pages, and the pool drained and refilled each time."""
    for exponent in range(12):
        pages = max(1, 2**exponent // 4)
        trial = PoolTrial(PoolLaunches(page_pool.new_pool(EmulatedDevice(seed=exponent), kind, pages)))
        assert trial.perform(("launch", {"counts": [1] * 2**exponent, "frees": 0})) is None
        assert len(trial.held) == pages
        assert trial.perform(("drain", {})) is None
