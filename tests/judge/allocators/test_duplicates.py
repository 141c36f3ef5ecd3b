# SPDX-License-Identifier: Apache-2.0
"""Allocators that cache a page though another one holds the same, as vLLM's does."""

from __future__ import annotations

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
PROMPT = Prompt(tokens=(7, 8, 9, 10, 11))


def start(sequence: int) -> tuple[str, dict[str, Any]]:
    return "alloc", {"sequence": sequence, "tokens": 4, "final_tokens": None, **NAMES}


HISTORY: tuple[Operation, ...] = (
    start(0),
    start(1),
    ("commit", {"sequence": 0, "tokens": 4}),
    ("commit", {"sequence": 1, "tokens": 4}),
    ("free", {"sequences": [0]}),
    ("evict", {"pages": 2}),
    ("free", {"sequences": [1]}),
    ("lookup", {"tokens": 5, "turns": [], **NAMES}),
    ("adopt", {"sequence": 2, "pages": []}),
    ("drain", {}),
)


class Keeps(ModelAllocator):
    """Caches every page that is committed, and says so."""

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape, duplicates=True)


class KeepsInSecret(ModelAllocator):
    """The same, declared as one that does not."""

    def commit(self, sequence: int, prompt: Prompt) -> None:
        declared, self.capabilities = self.capabilities, Keeps(SHAPE).capabilities
        super().commit(sequence, prompt)
        self.capabilities = declared


class ForgetsHeirs(Keeps):
    """With the page that was cached first the prefix is gone, though another page holds it."""

    def _forget(self, page: int) -> None:
        for key in [key for key, cached in self._cache.items() if cached == page]:
            del self._cache[key]
        self._duplicates.pop(page, None)


def violations(subject: ModelAllocator) -> list[str]:
    trial = Trial(subject)
    return [found for operation in HISTORY if (found := trial.perform(operation))]


def test_duplicates_stay_when_the_first_page_goes() -> None:
    made = Keeps(SHAPE)
    for sequence in (0, 1):
        made.alloc(sequence, 4)
        made.commit(sequence, Prompt(tokens=PROMPT.tokens[:4]))
    assert made.lookup(PROMPT).pages == made.pages(0)
    second = made.pages(1)
    made.free([0])
    assert (made.free_pages, made.evictable_pages) == (4, 2)
    made.evict(2)
    assert made.lookup(PROMPT).pages == second
    made.free([1])
    assert (made.free_pages, made.evictable_pages) == (6, 2)


def test_duplicates_are_committed_with_the_same_tokens_again() -> None:
    made = Keeps(SHAPE)
    for sequence in (0, 1):
        made.alloc(sequence, 4)
        made.commit(sequence, Prompt(tokens=(1, 2, 3, 4)))
    with pytest.raises(InvalidCase, match="committed with other tokens"):
        made.commit(1, Prompt(tokens=(1, 2, 3, 5)))


def test_duplicates_are_judged_as_declared() -> None:
    assert violations(Keeps(SHAPE)) == []
    assert violations(ModelAllocator(SHAPE)) == []
    assert "invariant 15: free_pages is 6, must be 8" in violations(KeepsInSecret(SHAPE))
    assert violations(ForgetsHeirs(SHAPE))[0].startswith("lookup {'tokens': 5, ")


@pytest.mark.parametrize("more", [{"partial": True}, {"operations": frozenset({"alloc", "move_down"})}])
def test_duplicates_go_without_what_they_are_not_defined_for(more: dict[str, Any]) -> None:
    given: dict[str, Any] = {"operations": frozenset({"alloc"}), "duplicates": True, **more}
    with pytest.raises(InvalidCase, match="goes without partial hits, tiers and priorities"):
        Capabilities(**given)
