# SPDX-License-Identifier: Apache-2.0
"""Allocators that leave one page of those that hold the same, as a radix tree does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pabench.errors import InvalidCase
from pabench.judge.allocators.model import ModelAllocator
from pabench.judge.allocators.operations import Operation
from pabench.judge.allocators.trial import Trial
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.allocators.results import Prompt

SHAPE = PoolShape(num_pages=8, page_size=2, max_seqs=4, max_pages_per_seq=4)
NAMES: dict[str, Any] = {"stream": 3, "adapter": "", "salt": ""}
TOKENS = (7, 8, 9, 10)


def start(sequence: int) -> Operation:
    return "alloc", {"sequence": sequence, "tokens": 5, "final_tokens": None, **NAMES}


def commit(sequence: int) -> Operation:
    return "commit", {"sequence": sequence, "tokens": 4}


HISTORY: tuple[Operation, ...] = (
    *(start(0), start(1), commit(0), commit(1), commit(1)),
    ("append", {"sequence": 1, "tokens": 1}),
    *(("free", {"sequences": [0]}), ("evict", {"pages": 2}), ("free", {"sequences": [1]})),
    ("lookup", {"tokens": 5, "turns": [], **NAMES}),
    ("adopt", {"sequence": 2, "pages": []}),
    *(start(3), commit(3), ("drain", {})),
)


class Shares(ModelAllocator):
    """Declares it."""

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape, commits="shared")


class SharesInSecret(Shares):
    """Declares the opposite."""

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape)
        self._told = self.capabilities
        self.capabilities = replace(self.capabilities, commits="kept")

    def commit(self, sequence: int, prompt: Prompt) -> None:
        told, self.capabilities = self.capabilities, self._told
        super().commit(sequence, prompt)
        self.capabilities = told


class KeepsInSecret(Shares):
    """Leaves the table as it is."""

    def commit(self, sequence: int, prompt: Prompt) -> None:
        told, self.capabilities = self.capabilities, replace(self.capabilities, commits="kept")
        super().commit(sequence, prompt)
        self.capabilities = told


class SharesTheWrongWay(Shares):
    """Goes on with the cached pages in the opposite order."""

    def commit(self, sequence: int, prompt: Prompt) -> None:
        super().commit(sequence, prompt)
        if sequence == 1:
            table = self._tables[1]
            table[0], table[1] = table[1], table[0]


class ForgetsToGiveBack(Shares):
    """Loses the pages that are of no use any more."""

    def commit(self, sequence: int, prompt: Prompt) -> None:
        given, self._free = self._free, type(self._free)()
        super().commit(sequence, prompt)
        self._free = given


def first_violation(subject: ModelAllocator) -> str | None:
    trial = Trial(subject)
    return next((found for operation in HISTORY if (found := trial.perform(operation))), None)


def test_shared_commits_leave_one_page_of_those_that_hold_the_same() -> None:
    made = Shares(SHAPE)
    for sequence in (0, 1):
        made.alloc(sequence, 5)
        made.commit(sequence, Prompt(tokens=TOKENS))
    assert made.pages(0)[:2] == made.pages(1)[:2]
    assert made.pages(0)[2] != made.pages(1)[2]
    assert (made.free_pages, made.evictable_pages) == (4, 0)
    made.free([0])
    assert (made.free_pages, made.evictable_pages) == (5, 0)
    made.free([1])
    assert (made.free_pages, made.evictable_pages) == (6, 2)


def test_shared_commits_go_on_with_cached_pages_that_nobody_holds() -> None:
    made = Shares(SHAPE)
    made.alloc(0, 5)
    made.commit(0, Prompt(tokens=TOKENS))
    cached = made.pages(0)[:2]
    made.free([0])
    made.alloc(1, 5)
    made.commit(1, Prompt(tokens=TOKENS))
    assert made.pages(1)[:2] == cached
    assert (made.free_pages, made.evictable_pages) == (5, 0)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Shares, "None"),
        (SharesInSecret, "invariant 7: token 0 of sequence 1"),
        (KeepsInSecret, "invariant 11: page 0 of sequence 1 is 3, must be 0"),
        (SharesTheWrongWay, "invariant 7: slot 2 does not hold token 0 of the prompt that was committed"),
        (ForgetsToGiveBack, "invariant 1: "),
    ],
)
def test_shared_commits_are_judged_as_declared(kind: type[ModelAllocator], said: str) -> None:
    assert str(first_violation(kind(SHAPE))).startswith(said)


@pytest.mark.parametrize("more", [{"partial": True}, {"operations": frozenset({"alloc", "begin_step"})}])
def test_shared_commits_go_without_what_they_are_not_defined_for(more: dict[str, Any]) -> None:
    given: dict[str, Any] = {"operations": frozenset({"alloc"}), "commits": "shared", **more}
    with pytest.raises(InvalidCase, match="go without defragment, steps, tiers, priorities, partial hits"):
        Capabilities(**given)
