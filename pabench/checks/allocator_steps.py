# SPDX-License-Identifier: Apache-2.0
"""A history of an allocator that grows step by step: what the moves of a state machine are made of."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from pabench.checks.allocator_checks import judge_operation
from pabench.checks.allocator_draws import Space
from pabench.checks.asking import Asking
from pabench.checks.outcome import Outcome
from pabench.judge.allocators.history import HistoryCase
from pabench.judge.allocators.operations import Operation
from pabench.judge.allocators.streams import Turns
from pabench.judge.allocators.trial import Trial
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.capabilities import OPERATIONS, Capabilities


class HistoryOver(Exception):
    """A known deviation ended the history."""


class HistorySteps:
    """The history so far, and how it goes on.

    Attributes:
        asking: who runs it.
        can: what the subject declares.
        shape: of its pool.
        without: operations and groups of them that this history does without.
        streams: where tokens come from.
        spaces: names that prompts are kept apart by.
        offered: what was committed, and under which names.
        rng: what a step draws from.
    """

    asking: Asking
    can: Capabilities
    shape: PoolShape
    without: set[str]
    streams: list[int]
    spaces: list[Space]
    offered: list[tuple[Turns, Space]]
    history: list[Operation]
    trial: Trial
    rng: random.Random

    @property
    def _live(self) -> list[int]:
        return sorted(self.trial.contents.live)

    @property
    def _away(self) -> list[int]:
        return sorted(self.trial.contents.swapped)

    @property
    def _dead(self) -> list[int]:
        there = {*self.trial.contents.live, *self.trial.contents.swapped}
        return [sequence for sequence in range(self.shape.max_seqs) if sequence not in there]

    def _one(self, among: Sequence[Any]) -> Any:
        return self.rng.choice(among)

    def _maybe(self, chance: float = 0.5) -> bool:
        return self.rng.random() < chance

    def _count(self) -> int:
        """Tokens to add: mostly about a page or two."""
        size = self.shape.page_size
        some = self.rng.randint(1, 2 * size + 1)
        count: int = self.rng.choice([0, 1, size - 1, size, size + 1, 2 * size, some, some])
        return count

    def _part(self, sequence: int) -> int:
        """A number of a sequence's tokens."""
        return self.rng.randint(0, len(self.trial.contents.live[sequence].tokens))

    def _on(self, name: str) -> bool:
        """Whether an operation is offered, and it or its group not left out of this run."""
        return name not in self.without and (name in self.can.operations or name not in OPERATIONS)

    def _new(self, sequence: int, tokens: int, **given: Any) -> None:
        words = {"final_tokens": None, "stream": self.streams[0], "adapter": "", "salt": ""}
        self._step("alloc", sequence=sequence, tokens=tokens, **(words | given))

    def _step(self, name: str, **given: Any) -> None:
        outcome = self._judge(name, given)
        if not outcome.passed:
            self._close(outcome)
            raise HistoryOver

    def _cut(self, sequence: int, length: int) -> None:
        """Truncate; other tokens may follow than before."""
        stream = self._one(self.streams) if self._maybe() else None
        self._step("truncate", sequence=sequence, length=length, stream=stream)

    def _judge(self, name: str, given: dict[str, Any]) -> Outcome:
        self.history.append((name, given))
        self.asking.announce(self._case())
        try:
            return judge_operation(self.trial, self.history)
        except BaseException:
            # its process has ended, or the run is to end: there is nothing to drain, and no second word on it
            del self.trial
            raise

    def _case(self) -> HistoryCase:
        return HistoryCase(shape=self.shape, operations=tuple(self.history))

    def _close(self, outcome: Outcome) -> None:
        if not outcome.passed:
            del self.trial  # a broken history is not drained
        self.asking.note(self._case(), outcome)
