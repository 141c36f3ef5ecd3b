# SPDX-License-Identifier: Apache-2.0
"""Allocators whose cache forgets more than it must, as a tree that evicts whole nodes does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pabench.errors import InvalidCase, OutOfPages
from pabench.judge.allocators.model import ModelAllocator
from pabench.judge.allocators.operations import Operation
from pabench.judge.allocators.trial import Trial
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.allocators.groups import KvGroup
from pabench.subjects.allocators.results import NULL_PAGE, Hit, Prompt

SHAPE = PoolShape(num_pages=6, page_size=2, max_seqs=4, max_pages_per_seq=6)
OFFERED = frozenset({"alloc", "append", "free", "commit", "lookup", "adopt", "reset"})


def stream(number: int) -> dict[str, Any]:
    return {"stream": number, "adapter": "", "salt": ""}


def start(sequence: int, number: int, tokens: int = 4) -> Operation:
    return "alloc", {"sequence": sequence, "tokens": tokens, "final_tokens": None, **stream(number)}


def look(number: int) -> Operation:
    return "lookup", {"tokens": 5, "turns": [], **stream(number)}


CACHED: tuple[Operation, ...] = (
    *(start(0, 3), ("commit", {"sequence": 0, "tokens": 4}), ("free", {"sequences": [0]})),
    *(start(0, 4), ("commit", {"sequence": 0, "tokens": 4}), ("free", {"sequences": [0]})),
)
"""Two prompts of two pages in the cache, and two pages free."""
SHORT: tuple[Operation, ...] = (*CACHED, start(0, 5, tokens=6))
"""A third, which needs one page of the cache."""
AGAIN: tuple[Operation, ...] = (
    *(look(3), ("adopt", {"sequence": 1, "pages": []}), look(4), ("adopt", {"sequence": 2, "pages": []})),
    ("drain", {}),
)
STALE: tuple[Operation, ...] = (
    *CACHED,
    look(3),
    start(0, 5, tokens=6),
    ("adopt", {"sequence": 1, "pages": []}),
)


class Forgetful(ModelAllocator):
    """Gives up its whole cache when it needs one page of it."""

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape)
        self.capabilities = replace(
            self.capabilities, operations=OFFERED, order="set", groups=frozenset(), hits="some"
        )

    def _evict_one(self) -> int:
        page, cache = super()._evict_one(), self._evictable
        self._evictable = []
        for other in cache:
            self._forget(other)
        self._free.extend(cache)
        return page


class KeepsOldest(Forgetful):
    """Evicts what was used last."""

    def _evict_one(self) -> int:
        page = self._evictable.pop()
        self._forget(page)
        return page


class ForgetsEarly(Forgetful):
    """Caches nothing."""

    def commit(self, sequence: int, prompt: Prompt) -> None:
        self._live(sequence)


class FindsWhatIsGone(Forgetful):
    """Leaves in the cache what it has given to others."""

    def _forget(self, page: int) -> None:
        pass


class TakesStale(Forgetful):
    """Takes a hit for granted, however old it is."""

    def _still(self, hit: Hit) -> int:
        return len(hit.pages) * self.shape.page_size


class FindsOthers(TakesStale):
    """Finds the next free page, where it knows of none."""

    def lookup(self, prompt: Prompt) -> Hit:
        found = super().lookup(prompt)
        return found if found.pages or not self._free else Hit(prompt=prompt, pages=(self._free[0],))

    def adopt(self, sequence: int, hit: Hit) -> Any:
        if hit.pages[:1] == (self._free[0],):
            self._free.popleft()
        return super().adopt(sequence, hit)


class CountsTooMuch(Forgetful):
    """Once it has forgotten a page, calls all free ones cached."""

    _forgot = False

    def _evict_one(self) -> int:
        self._forgot = True
        return super()._evict_one()

    @property
    def free_pages(self) -> int:
        return 0 if self._forgot else super().free_pages

    @property
    def evictable_pages(self) -> int:
        return super().evictable_pages + (super().free_pages if self._forgot else 0)


class RefusesAll(Forgetful):
    """Refuses every hit as out of date."""

    def adopt(self, sequence: int, hit: Hit) -> Any:
        if hit.pages:
            raise InvalidCase("hit", hit.pages, "must be cached still; look it up again")
        return super().adopt(sequence, hit)


class RefusesMuch(Forgetful):
    """Does not grant what is cached."""

    def _admit(self, needed: int) -> None:
        if needed > len(self._free):
            raise OutOfPages(needed, len(self._free))
        super()._admit(needed)


def first_violation(subject: ModelAllocator, history: tuple[Operation, ...]) -> str | None:
    trial = Trial(subject)
    return next((found for operation in history if (found := trial.perform(operation))), None)


@pytest.mark.parametrize("kind", [Forgetful, KeepsOldest])
@pytest.mark.parametrize("history", [(*SHORT, *AGAIN), (*CACHED, *AGAIN), (*STALE, *AGAIN)])
def test_forgetting_is_right_when_pages_ran_short(
    kind: type[ModelAllocator], history: tuple[Operation, ...]
) -> None:
    assert first_violation(kind(SHAPE), history) is None


def test_forgetting_must_be_declared() -> None:
    class Secret(KeepsOldest):
        def __init__(self, shape: PoolShape) -> None:
            super().__init__(shape)
            self.capabilities = replace(self.capabilities, hits="all")

    assert str(first_violation(Secret(SHAPE), (*SHORT, *AGAIN))).startswith("lookup {'tokens': 5, ")


@pytest.mark.parametrize(
    ("kind", "history", "said"),
    [
        (ForgetsEarly, (*CACHED, *AGAIN), "invariant 15: free_pages is 6, must be 4"),
        (FindsWhatIsGone, (*SHORT, *AGAIN), "must find what was committed"),
        (FindsOthers, (*SHORT, *AGAIN), "invariant 7"),
        (CountsTooMuch, (*SHORT, ("free", {"sequences": [0]}), *AGAIN), "evictable_pages is"),
        (TakesStale, STALE, "invariant"),
        (RefusesAll, (*CACHED, *AGAIN), "adopt"),
        (RefusesAll, (*SHORT, ("free", {"sequences": [0]}), *CACHED, *AGAIN), "adopt"),
        (RefusesMuch, SHORT, "invariant 9"),
    ],
)
def test_forgetting_excuses_nothing_else(
    kind: type[ModelAllocator], history: tuple[Operation, ...], said: str
) -> None:
    assert said in str(first_violation(kind(SHAPE), history))


def any_hits(kind: type[ModelAllocator]) -> ModelAllocator:
    made = kind(SHAPE)
    made.capabilities = replace(made.capabilities, hits="any")
    return made


@pytest.mark.parametrize("kind", [Forgetful, KeepsOldest, ForgetsEarly])
@pytest.mark.parametrize("history", [(*SHORT, *AGAIN), (*CACHED, *AGAIN), (*STALE, *AGAIN)])
def test_forgetting_at_any_time_is_right_where_it_is_declared(
    kind: type[ModelAllocator], history: tuple[Operation, ...]
) -> None:
    assert first_violation(any_hits(kind), history) is None


@pytest.mark.parametrize(
    ("kind", "history", "said"),
    [
        (FindsWhatIsGone, (*SHORT, *AGAIN), "must find what was committed"),
        (FindsOthers, (*SHORT, *AGAIN), "invariant 7"),
        (TakesStale, STALE, "invariant"),
        (RefusesAll, (*CACHED, *AGAIN), "adopt"),
        (RefusesMuch, SHORT, "invariant 9"),
    ],
)
def test_forgetting_at_any_time_excuses_nothing_else(
    kind: type[ModelAllocator], history: tuple[Operation, ...], said: str
) -> None:
    assert said in str(first_violation(any_hits(kind), history))


GROUPS = replace(
    SHAPE,
    num_pages=12,
    page_size=4,
    groups=(KvGroup(kind="full", page_size=4), KvGroup(kind="window", page_size=2, window=3)),
)
IN_GROUPS: tuple[Operation, ...] = (
    *(start(0, 3, tokens=8), ("commit", {"sequence": 0, "tokens": 8}), ("free", {"sequences": [0]})),
    *(start(0, 4, tokens=8), ("lookup", {"tokens": 9, "turns": [], **stream(3)})),
    *(("adopt", {"sequence": 1, "pages": []}), ("append", {"sequence": 1, "tokens": 1}), ("drain", {})),
)


class InGroups(ModelAllocator):
    """Says that its cache keeps what it likes."""

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape)
        kinds = frozenset({"full", "window"})
        self.capabilities = replace(
            self.capabilities, operations=OFFERED, order="set", groups=kinds, hits="any"
        )


class LeavesHoles(InGroups):
    """Finds no page of a window, not even one that is seen."""

    def lookup(self, prompt: Prompt) -> Hit:
        found = super().lookup(prompt)
        full = len(found.pages) // 3
        return replace(found, pages=(*found.pages[:full], *([NULL_PAGE] * (len(found.pages) - full))))


class FindsHalf(InGroups):
    """Finds a block of pages that is not whole."""

    def lookup(self, prompt: Prompt) -> Hit:
        found = super().lookup(prompt)
        return replace(found, pages=found.pages[:-1])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (InGroups, "None"),
        (LeavesHoles, "lookup found pages [0, 1, -1, -1, -1, -1], must find what was committed"),
        (FindsHalf, "lookup found 5 pages, must find whole blocks of 3"),
    ],
)
def test_forgetting_is_followed_in_groups(kind: type[ModelAllocator], said: str) -> None:
    trial = Trial(kind(GROUPS))
    found = next((words for operation in IN_GROUPS if (words := trial.perform(operation))), None)
    assert str(found) == said


def test_forgetting_pages_that_hold_the_same_stand_for_each_other() -> None:
    """The page that was cached first is forgotten, another is committed, and a third sequence finds that."""
    forgets = (("free", {"sequences": [0]}), start(1, 3), ("commit", {"sequence": 1, "tokens": 4}))
    history = (*SHORT, *forgets, look(3), ("adopt", {"sequence": 2, "pages": []}), ("drain", {}))
    assert first_violation(Forgetful(SHAPE), history) is None


def test_forgetting_rounds_leave_the_model_as_large_as_it_was() -> None:
    trial = Trial(Forgetful(SHAPE))
    for _ in range(200):
        for operation in (*CACHED, start(0, 5, tokens=6), ("free", {"sequences": [0]})):
            assert trial.perform(operation) is None
    assert trial._model.evictable_pages <= 4


@pytest.mark.parametrize(
    "more",
    [
        {"partial": True},
        {"duplicates": True},
        {"operations": frozenset({"evict"})},
    ],
)
def test_forgetting_goes_without_what_it_is_not_defined_for(more: dict[str, Any]) -> None:
    given: dict[str, Any] = {"operations": frozenset({"alloc"}), "hits": "some", **more}
    with pytest.raises(
        InvalidCase,
        match="go without evict, defragment, steps, tiers, priorities, partial hits and duplicates",
    ):
        Capabilities(**given)
