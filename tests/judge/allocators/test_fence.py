# SPDX-License-Identifier: Apache-2.0
"""Pages on their way back: behind the steps that may still use them, or by themselves where declared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pabench.errors import InvalidCase, OutOfPages
from pabench.judge.allocators.model import ModelAllocator
from pabench.judge.allocators.operations import Operation
from pabench.judge.allocators.trial import Trial
from pabench.kernels import alloc_scan
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.results import Granted, Prompt
from pabench.subjects.allocators.scan import ScanAllocator
from tests.support.kill_support import ask
from tests.support.probe import DEVICE

SHAPE = PoolShape(num_pages=4, page_size=2, max_seqs=4, max_pages_per_seq=4)
NAMES: dict[str, Any] = {"final_tokens": None, "stream": 1, "adapter": "", "salt": ""}


def on_device(shape: PoolShape) -> ScanAllocator:
    return ScanAllocator(DEVICE, shape)


@pytest.mark.parametrize("make", [ModelAllocator, HostAllocator, on_device])
def test_fence_holds_pages_until_the_steps_have_ended(make: Any) -> None:
    pool = make(SHAPE)
    pool.alloc(0, 4)
    pool.begin_step()
    pool.alloc(1, 2)
    pool.begin_step()
    pool.free([0, 1])
    assert (pool.free_pages, pool.returning_pages) == (1, 3)
    with pytest.raises(OutOfPages):
        pool.alloc(0, 4)
    pool.end_step()
    # they may be used by the second step too
    assert (pool.free_pages, pool.returning_pages) == (1, 3)
    with pytest.raises(InvalidCase, match="steps in flight = 1: must all have ended before a reset"):
        pool.reset()
    pool.end_step()
    assert (pool.free_pages, pool.returning_pages) == (4, 0)
    with pytest.raises(InvalidCase, match="steps in flight = 0: must be one at least"):
        pool.end_step()
    assert pool.alloc(0, 8).slots.tolist() == [6, 7, 0, 1, 2, 3, 4, 5]


def test_fence_of_the_device_has_so_many_steps_and_begins_again() -> None:
    """Marks are a ring: their places are used again, and a step too many is refused without a trace."""
    pool, most = on_device(SHAPE), alloc_scan.STEPS_IN_FLIGHT
    for _ in range(3):
        pool.begin_step()
        pool.end_step()
    pool.alloc(0, 2)
    for step in range(most):
        pool.begin_step()
        if step == most // 2:
            pool.free([0])
    before = pool.fingerprint()
    with pytest.raises(InvalidCase, match=f"steps in flight = {most}: must be fewer than {most}"):
        pool.begin_step()
    assert pool.fingerprint() == before
    for step in range(most):
        assert pool.returning_pages == (step <= most // 2)
        pool.end_step()


def test_fence_of_the_device_needs_no_host() -> None:
    """Launches alone, as a graph holds them: nothing is read before the end."""
    state = alloc_scan.new_state(DEVICE, num_pages=2, page_size=1, max_seqs=2, max_pages_per_seq=2)
    slots: Any = DEVICE.empty((4,), np.dtype(np.int64))
    first, second, one = (np.array(values, np.int32) for values in ([0, -1], [1, -1], [1, 0]))
    alloc_scan.extend(state, first, 2 * one, slots)
    alloc_scan.begin_step(state)
    alloc_scan.drop(state, first, one, alloc_scan.END)
    alloc_scan.extend(state, second, one, slots)
    early = alloc_scan.read_status(state)
    alloc_scan.end_step(state)
    came_back = alloc_scan.read_status(state)
    alloc_scan.extend(state, second, one, slots)
    late = alloc_scan.read_status(state)
    assert (early.code, early.needed, early.free) == (alloc_scan.TOO_FEW_PAGES, 1, 0)
    assert (came_back.code, came_back.pages, came_back.free) == (alloc_scan.OK, 2, 2)
    assert (late.code, late.pages, late.free) == (alloc_scan.OK, 1, 1)


@pytest.mark.parametrize("make", [ModelAllocator, HostAllocator])
def test_fence_lets_cached_pages_be_adopted_and_not_evicted(make: Any) -> None:
    pool, prompt = make(SHAPE), Prompt(tokens=(5, 6, 7, 8, 9))
    pool.alloc(0, 4)
    pool.commit(0, Prompt(tokens=(5, 6, 7, 8)))
    pool.begin_step()
    pool.free([0])
    assert (pool.evictable_pages, pool.returning_pages) == (0, 2)
    assert pool.evict(2) == ()
    pool.adopt(1, pool.lookup(prompt))
    assert pool.returning_pages == 0
    pool.end_step()
    assert (pool.evictable_pages, pool.free_pages) == (0, 2)
    pool.free([1])
    assert pool.evictable_pages == 2


class Deferred(HostAllocator):
    """Pages of ended sequences come back an operation later, as vLLM's deferred frees do."""

    capabilities = Capabilities(
        operations=frozenset({"alloc", "append", "append_batch", "free", "reset"}),
        order="set",
        refusal="quiescent",
        returns="by-itself",
    )

    def _start(self) -> None:
        super()._start()
        self._parked: list[Array] = []

    @property
    def returning_pages(self) -> int:
        return sum(pages.size for pages in self._parked)

    def _open(self) -> None:
        for pages in self._parked:
            self._ring.push(pages)
        self._parked = []

    def free(self, sequences: Sequence[int]) -> None:
        before = self._ring.count
        super().free(sequences)
        back = self._ring.count - before
        ids = self._ring.ids()
        self._parked.append(ids[ids.size - back :])
        self._ring.count = before

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        self._open()
        return super().alloc(sequence, tokens, final_tokens=final_tokens)

    def append(self, sequence: int, tokens: int) -> Granted:
        self._open()
        return super().append(sequence, tokens)

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        self._open()
        return super().append_batch(sequences, tokens)


class Undeclared(Deferred):
    capabilities = replace(Deferred.capabilities, returns="at-once")


class NeverOpens(Deferred):
    def _open(self) -> None:
        pass


def test_fence_that_opens_by_itself_is_right_where_it_is_declared() -> None:
    record = ask("allocator-invariants", AllocatorEntry.of(Deferred), DEVICE, name="deferred")
    assert record.outcome is None
    assert record.cases >= 100
    assert ask("allocator-invariants[rounds]", AllocatorEntry.of(Deferred), DEVICE).outcome is None


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Undeclared, "pages are on their way back, none are declared to be ever"),
        (NeverOpens, "invariant 9: "),
    ],
)
def test_fence_that_is_not_declared_or_never_opens_is_wrong(made: type[HostAllocator], words: str) -> None:
    outcome = ask("allocator-invariants", AllocatorEntry.of(made), DEVICE).outcome
    assert outcome is not None
    assert words in outcome.text


class AnyPage(HostAllocator):
    """Grants any page, and one behind the fence."""

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape)
        self.capabilities = replace(self.capabilities, order="set")

    def end_early(self) -> None:
        for pages in self._steps[0]:
            self._come_back(pages)
        self._steps[0] = [np.array([3], np.int32)]
        self._ring.take(1)


def test_fence_passed_is_named() -> None:
    pool: Any = AnyPage(SHAPE)
    steps: list[Operation] = [
        ("alloc", {"sequence": 0, "tokens": 4, **NAMES}),
        ("begin_step", {}),
        ("free", {"sequences": [0]}),
    ]
    trial = Trial(pool)
    assert [trial.perform(step) for step in steps] == [None, None, None]
    pool.end_early()
    found = trial.perform(("alloc", {"sequence": 1, "tokens": 4, **NAMES}))
    assert found == "invariant 16: alloc granted page 0, which a step in flight may still use"
    same: PageAllocator = HostAllocator(SHAPE)
    assert [Trial(same).perform(step) for step in steps[:1]] == [None]
