# SPDX-License-Identifier: Apache-2.0
"""Two tiers in serving: what would be evicted goes down and comes back, and so does who is preempted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pabench.activities.serving.config import ServingConfig
from pabench.activities.serving.executors import NullExecutor, StepWork
from pabench.activities.serving.limits import Limits
from pabench.activities.serving.records import Served
from pabench.activities.serving.schedulers import SCHEDULERS
from pabench.activities.serving.serve import serve
from pabench.errors import InvalidCase, Unsupported
from pabench.judge.allocators.leftovers import leftovers
from pabench.subjects.allocators.base import PoolShape
from pabench.workloads.requests import Requests
from pabench.workloads.structure import Segments
from tests.support.allocator_support import make_allocator
from tests.support.probe import DEVICE
from tests.support.serving_support import asked

SHAPE = PoolShape(num_pages=12, page_size=4, max_seqs=4, max_pages_per_seq=12)


class Notes(NullExecutor):
    """Adds up the tokens that move."""

    moved = 0

    def step(self, work: StepWork) -> float:
        self.moved += work.swapped_tokens
        return super().step(work)


def run(requests: Requests, *, host: int, scheduler: str = "fcfs", **limits: Any) -> tuple[Served, int]:
    allocator, executor = make_allocator("host", DEVICE, replace(SHAPE, host_pages=host)), Notes(1.0)
    limits = {"prefix_cache": True, "sample_steps": 1, **limits}
    served = serve(requests, allocator, SCHEDULERS[scheduler], executor, Limits(**limits))
    assert leftovers(allocator) is None
    return served, executor.moved


def in_turn(count: int) -> Requests:
    """Two prompts of eight pages by turns, one at a time: the pool holds one of them."""
    names = [number % 2 for number in range(count)]
    segments = Segments(
        indptr=np.arange(count + 1),
        ids=np.array(names),
        tokens=np.full(count, 32),
        output_ids=np.full(count, -1),
    )
    arrivals = tuple(10.0 * number for number in range(count))
    return replace(asked(*[(33, 2)] * count, arrival_s=arrivals), segments=segments)


def test_tier_brings_back_what_the_pool_had_no_room_for() -> None:
    # 8 pages of 32 tokens each: of two prompts the second throws out part of the first
    plain, moved = run(in_turn(6), host=0)
    assert (plain.moved_pages, moved) == ((0, 0), 0)
    tiered, moved = run(in_turn(6), host=16)
    assert tiered.log.hit == [0, 0, 32, 32, 32, 32]
    assert sum(tiered.log.hit) > sum(plain.log.hit)
    out, back = tiered.moved_pages
    assert out > 0
    assert back > 0
    # a tier of two pages holds no more than these
    assert sum(plain.log.hit) <= sum(run(in_turn(6), host=2)[0].log.hit) < sum(tiered.log.hit)
    assert moved == (out + back) * SHAPE.page_size


def test_tier_takes_who_is_preempted() -> None:
    requests = asked((12, 20), (12, 20))
    computed = [run(requests, host=host, scheduler=name)[0] for name, host in (("fcfs", 0), ("swap", 16))]
    for served in computed:
        assert sum(served.log.preemptions) >= 1
        assert served.log.generated == [20, 20]
    again, kept = (sum(served.log.recomputed) for served in computed)
    # a page that was not full is computed again, of each that was preempted
    assert kept <= (SHAPE.page_size - 1) * sum(computed[1].log.preemptions) < again
    assert min(computed[1].moved_pages) > 0


def test_tier_is_one_of_the_prefix_cache() -> None:
    given: dict[str, Any] = {"scheduler": "fcfs", "allocators": ("host",), "page_sizes": (4,), "model": ""}
    given |= {"pool_slots": 64, "token_bytes": 64, "host_slots": 32}
    assert ServingConfig(**given, prefix_cache=True).shape(4, 16).host_pages == 8
    with pytest.raises(InvalidCase, match="host_slots = 32: must be 0 without --prefix-cache"):
        ServingConfig(**given)
    with pytest.raises(InvalidCase, match="host_slots = 3: must be 0 or hold a page of 4 tokens"):
        ServingConfig(**(given | {"host_slots": 3}), prefix_cache=True)


def test_tier_is_refused_by_who_has_one() -> None:
    allocator: Any = make_allocator("model", DEVICE, replace(SHAPE, host_pages=4))
    can = allocator.capabilities
    allocator.capabilities = replace(can, operations=can.operations - {"pin", "unpin"})
    with pytest.raises(Unsupported, match="offers no pin, unpin"):
        serve(asked((4, 1)), allocator, SCHEDULERS["fcfs"], Notes(1.0), Limits(prefix_cache=True))
