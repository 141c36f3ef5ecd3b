# SPDX-License-Identifier: Apache-2.0
"""Pages that move together: tables, shares, cache and free pages follow; the judge sees where they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pabench.errors import InvalidCase
from pabench.judge.allocators.model import ModelAllocator
from pabench.judge.allocators.operations import Operation
from pabench.judge.allocators.trial import Trial
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.host_defragment import moves_of
from pabench.subjects.allocators.results import Prompt

SHAPE = PoolShape(num_pages=9, page_size=2, max_seqs=4, max_pages_per_seq=4)
NAMES: dict[str, Any] = {"stream": 3, "adapter": "", "salt": ""}


def start(sequence: int, tokens: int) -> Operation:
    return "alloc", {"sequence": sequence, "tokens": tokens, "final_tokens": None, **NAMES}


LOOK: Operation = ("lookup", {"tokens": 5, "turns": [], **NAMES})
GAPS: tuple[Operation, ...] = (
    *(start(0, 3), start(1, 5), start(2, 4), ("commit", {"sequence": 2, "tokens": 4})),
    *(("fork", {"parent": 1, "child": 3, "stream": 4}), ("free", {"sequences": [0, 2]})),
)
"""Pages 0 and 1 are free, 2 to 4 shared by two sequences, 5 and 6 cached, 7 and 8 free."""
AFTER: tuple[Operation, ...] = (
    ("append", {"sequence": 3, "tokens": 1}),
    *(LOOK, ("adopt", {"sequence": 0, "pages": []})),
    *(("append", {"sequence": 1, "tokens": 2}), ("drain", {})),
)


def first_violation(subject: PageAllocator, *history: Operation) -> str:
    trial = Trial(subject)
    return next((found for operation in history if (found := trial.perform(operation))), "none")


@pytest.mark.parametrize("make", [HostAllocator, ModelAllocator])
def test_defragment_moves_the_highest_into_the_holes(make: Any) -> None:
    made = make(SHAPE)
    made.alloc(0, 3)
    made.alloc(1, 5)
    made.alloc(2, 4)
    made.commit(2, Prompt(tokens=(7, 8, 9, 10)))
    made.free([0, 2])
    assert made.defragment().tolist() == [[5, 0, 2], [6, 1, 2]]
    assert made.pages(1) == (2, 3, 4)
    assert made.lookup(Prompt(tokens=(7, 8, 9, 10, 11))).pages == (0, 1)
    assert (made.free_pages, made.evictable_pages) == (4, 2)
    assert made.defragment().shape == (0, 3)
    made.alloc(0, 2)
    assert made.pages(0) == (5,)  # free pages queue up by their ids
    made.alloc(2, 8)  # and those cached go as they would have gone, a prefix from its tail
    assert made.pages(2) == (6, 7, 8, 1)


@pytest.mark.parametrize("make", [HostAllocator, ModelAllocator])
def test_defragment_is_judged_and_right(make: Any) -> None:
    assert first_violation(make(SHAPE), *GAPS, ("defragment", {}), *AFTER) == "none"
    assert first_violation(make(SHAPE), ("defragment", {}), *GAPS, ("defragment", {}), *AFTER) == "none"


@pytest.mark.parametrize("make", [HostAllocator, ModelAllocator])
def test_defragment_waits_for_steps_copies_and_pins(make: Any) -> None:
    made = make(SHAPE)
    made.begin_step()
    with pytest.raises(InvalidCase, match="steps, copies and pins = 1: must be 0 before pages move"):
        made.defragment()
    made.end_step()
    made.alloc(0, 4)
    made.commit(0, Prompt(tokens=(7, 8, 9, 10)))
    made.pin(hit := made.lookup(Prompt(tokens=(7, 8, 9, 10, 11))))
    with pytest.raises(InvalidCase, match="must be 0 before pages move"):
        made.defragment()
    made.unpin(hit)
    assert made.defragment().shape == (0, 3)


class MovesWhileRead(HostAllocator):
    def defragment(self) -> Array:
        steps, self._steps = self._steps, type(self._steps)()
        copies = super().defragment()
        self._steps = steps
        return copies


class SaysNothing(HostAllocator):
    def defragment(self) -> Array:
        return super().defragment()[:0]


class CopiesHalf(HostAllocator):
    def defragment(self) -> Array:
        return super().defragment() // np.array([1, 1, 2], np.int32)


class ForgetsTheCache(HostAllocator):
    def defragment(self) -> Array:
        kept, self._cache.rename = self._cache.rename, lambda new: None  # type: ignore[method-assign]
        copies = super().defragment()
        self._cache.rename = kept  # type: ignore[method-assign]
        return copies


class ForgetsWhoShares(HostAllocator):
    def defragment(self) -> Array:
        copies = super().defragment()
        self._shares[:] = 0
        return copies


class DoesNothing(HostAllocator):
    def defragment(self) -> Array:
        return np.empty((0, 3), np.int32)


SHARED_HIGH: tuple[Operation, ...] = (
    *(start(0, 8), start(1, 5), ("fork", {"parent": 1, "child": 3, "stream": 4})),
    ("free", {"sequences": [0]}),
)


@pytest.mark.parametrize(
    ("kind", "before", "said"),
    [
        (MovesWhileRead, (*GAPS, ("begin_step", {})), "defragment {} gave success, must give InvalidCase"),
        (SaysNothing, SHARED_HIGH, "invariant 7: token 0 of sequence 1"),
        (CopiesHalf, SHARED_HIGH, "invariant 7: token 1 of sequence 1"),
        (ForgetsTheCache, GAPS, "invariant"),
        (ForgetsWhoShares, SHARED_HIGH, "invariant 10: page 0 is said to be held 1 times, stands in 2"),
        (DoesNothing, SHARED_HIGH, "invariant 23: page 6 is in use, must be below the 3 pages in use"),
    ],
)
def test_defragment_wrongly_done_is_found(
    kind: type[HostAllocator], before: tuple[Operation, ...], said: str
) -> None:
    assert first_violation(kind(SHAPE), *before, ("defragment", {}), *AFTER).startswith(said)


def test_moves_are_the_fewest() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        pages = int(rng.integers(0, 40))
        free = rng.permutation(pages)[: int(rng.integers(0, pages + 1))].astype(np.int32)
        moves, used = moves_of(free, pages), pages - free.size
        assert not {*moves.sources.tolist()} & {*moves.targets.tolist()}
        assert (moves.sources >= used).all()
        assert (moves.targets < used).all()
        there = np.setdiff1d(np.arange(pages), free)
        assert sorted(moves.new[there].tolist()) == list(range(used))
        assert np.count_nonzero(moves.new[there] != there) == moves.sources.size
        assert moves.free.tolist() == list(range(used, pages))
