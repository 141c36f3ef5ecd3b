# SPDX-License-Identifier: Apache-2.0
"""What is handed out stays as it is, and rounds of the same calls leave nothing behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pabench.errors import Unsupported
from pabench.judge.allocators.memory import grown_memory
from pabench.judge.allocators.model import ModelAllocator
from pabench.judge.allocators.operations import Operation
from pabench.judge.allocators.trial import Trial
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.results import Granted, Hit, Prompt
from pabench.subjects.allocators.rounds import Rounds, run_rounds

SHAPE = PoolShape(num_pages=8, page_size=4, max_seqs=4, max_pages_per_seq=4, swap_pages=4)
NAMES: dict[str, Any] = {"final_tokens": None, "stream": 1, "adapter": "", "salt": ""}
ROUND: list[Operation] = [
    ("alloc", {"sequence": 0, "tokens": 5, **NAMES}),
    ("append", {"sequence": 0, "tokens": 4}),
    ("free", {"sequences": [0]}),
]


def found(allocator: PageAllocator, *steps: Operation) -> str | None:
    trial = Trial(allocator)
    return next((said for said in map(trial.perform, (*steps, ("drain", {}))) if said), None)


def rounds(times: int, last: int = len(ROUND)) -> Operation:
    return "rounds", {"last": last, "times": times}


@pytest.mark.parametrize("make", [HostAllocator, ModelAllocator])
def test_rounds_leave_nothing_behind(make: Any) -> None:
    assert found(make(SHAPE), *ROUND, rounds(300), *ROUND) is None


def test_rounds_begin_with_pages_that_are_cached_still() -> None:
    commit: Operation = ("commit", {"sequence": 0, "tokens": 8})
    steps = [*ROUND[:-1], commit, ROUND[-1]]
    assert found(HostAllocator(SHAPE), *steps, rounds(20, len(steps)), *steps) is None
    held = [*steps, ROUND[0]]
    with pytest.raises(Unsupported, match="rounds begin with an empty pool"):
        found(HostAllocator(SHAPE), *held, rounds(20, len(held)))


class LosesSlowly(HostAllocator):
    ended = 0

    def free(self, sequences: Sequence[int]) -> None:
        super().free(sequences)
        self.ended += 1
        if self.ended == 150:
            self._ring.take(1)


class RefusesLater(HostAllocator):
    ended = 0

    def append(self, sequence: int, tokens: int) -> Granted:
        self.ended += 1
        return super().append(sequence, 10**6 if self.ended == 150 else tokens)


class RemembersEverything(HostAllocator):
    def free(self, sequences: Sequence[int]) -> None:
        super().free(sequences)
        self.__dict__.setdefault("log", []).append(list(sequences))


def test_rounds_find_what_is_lost_or_kept_a_little_at_a_time() -> None:
    assert (found(LosesSlowly(SHAPE), *ROUND, rounds(200)) or "").startswith("invariant 10: page")
    refused = "invariant 9: round 148 of 3 operations refused 1, must refuse 0"
    assert found(RefusesLater(SHAPE), *ROUND, rounds(200)) == refused
    assert found(RemembersEverything(SHAPE), *ROUND, rounds(100)) is None
    kept = found(RemembersEverything(SHAPE), *ROUND, rounds(4000))
    assert (kept or "").startswith("invariant 13: ")
    assert "bytes of memory more after 9000 calls that leave nothing behind, may be 44192" in (kept or "")


def test_rounds_allow_what_grows_in_leaps() -> None:
    half = 2**12
    assert grown_memory(Rounds([0], [50, 50 + half, 50 + 2 * half]), 4) is None
    assert grown_memory(Rounds([0], [50, 50 + half + 7, 50 + 2 * half + 14]), 4) is not None


def test_rounds_allow_caches_that_fill_once() -> None:
    assert grown_memory(Rounds([0], [50, 90_000, 90_500]), 4) is None
    assert grown_memory(Rounds([0], [50, 50, 90_000]), 4) is None


def test_rounds_begin_and_end_with_an_empty_pool() -> None:
    trial = Trial(HostAllocator(SHAPE))
    with pytest.raises(Unsupported, match="rounds of the last 1 operations, 3 times: there are 0"):
        trial.perform(rounds(3, 1))
    assert trial.perform(ROUND[0]) is None
    with pytest.raises(Unsupported, match="begin with an empty pool"):
        trial.perform(rounds(3, 1))
    unwatched = run_rounds(HostAllocator(SHAPE), [("free", ([1],), {})], 3, watched=False)
    assert unwatched == ([1, 1, 1], [0, 0, 0])


class OneBuffer(HostAllocator):
    """Slots of all decode steps in one array."""

    def append(self, sequence: int, tokens: int) -> Granted:
        slots = super().append(sequence, tokens).slots
        buffer = self.__dict__.setdefault("buffer", np.zeros(64, np.int64))[: slots.size]
        buffer[:] = slots
        return Granted(new_slots=buffer)


class AsksTheRow(HostAllocator):
    """Slots that are found out when they are asked for."""

    def append(self, sequence: int, tokens: int) -> Granted:
        slots = super().append(sequence, tokens).slots
        return Granted(new_slots=lambda: slots if self.length(sequence) else slots[:0])


class HitThatGoesOn(HostAllocator):
    def lookup(self, prompt: Prompt) -> Hit:
        hit = super().lookup(prompt)
        pages: Any = self.__dict__.setdefault("pages", [])
        pages[:] = hit.pages
        return Hit(prompt=prompt, pages=pages) if hit.pages else hit


class MovesInOneBuffer(HostAllocator):
    def swap_out(self, sequence: int) -> Any:
        moves = super().swap_out(sequence)
        buffer = self.__dict__.setdefault("buffer", np.zeros((9, 3), np.int32))[: len(moves)]
        buffer[:] = moves
        return buffer


LOOK: Operation = ("lookup", {"tokens": 9, "turns": [], "stream": 1, "adapter": "", "salt": ""})
COMMIT: Operation = ("commit", {"sequence": 0, "tokens": 9})
ALIASES: dict[type[HostAllocator], tuple[str, list[Operation]]] = {
    OneBuffer: ("slots of operation 2 (append)", [*ROUND[:2], ROUND[1]]),
    AsksTheRow: ("slots of operation 2 (append)", ROUND),
    HitThatGoesOn: (
        "hit of operation 4 (lookup)",
        [*ROUND[:2], COMMIT, LOOK, ROUND[2], ("evict", {"pages": 1}), LOOK],
    ),
    MovesInOneBuffer: (
        "moves of operation 2 (swap_out)",
        [
            *(ROUND[0], ("swap_out", {"sequence": 0}), ("alloc", {"sequence": 1, "tokens": 3, **NAMES})),
            *(("swap_out", {"sequence": 1}), ("free", {"sequences": [0, 1]})),
        ],
    ),
}


@pytest.mark.parametrize("fault", ALIASES, ids=lambda fault: fault.__name__)
def test_handed_out_is_asked_again(fault: type[HostAllocator]) -> None:
    where, steps = ALIASES[fault]
    assert found(HostAllocator(SHAPE), *steps) is None
    assert found(fault(SHAPE), *steps) == f"invariant 5: {where} have changed since"
