# SPDX-License-Identifier: Apache-2.0
"""What judging mutants has taught: which questions reach a kernel file, how long each takes, what kills.

A search for what kills a mutant then begins with the questions that have killed most a second, and leaves out
those that compile nothing that the fault is in: with the same cases they do what they did before.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

WORD = re.compile(r"[a-z0-9]+")
LIKELY = 3.0
"""Kills that a question is believed to have made, when it is named after the file."""
UNKNOWN_SECONDS = 1.0
SHORTEST_SECONDS = 0.001
"""A duration is told in milliseconds, so one of nothing is any that is shorter."""


@dataclass(slots=True)
class Experience:
    """Of one runner."""

    _reached: dict[tuple[object, str], frozenset[str]] = field(default_factory=dict)
    _seconds: dict[tuple[object, str], float] = field(default_factory=dict)
    _kills: Counter[tuple[str, str]] = field(default_factory=Counter)

    def passed(self, stage: object, question: str, *, seconds: float, reached: Sequence[str]) -> None:
        """Remember that ``question`` was answered.

        Args:
            stage: what else its cases follow from: subject, profile, scope and seed.
            question: its id.
            seconds: that it took.
            reached: names of the kernel files that it compiled or loaded.
        """
        self._reached[stage, question] = frozenset(reached)
        self._seconds[stage, question] = seconds

    def killed(self, file: str, question: str) -> None:
        """Remember that ``question`` killed a mutant of ``file``."""
        self._kills[file, question] += 1

    def order(
        self, stage: object, file: str, units: frozenset[str] | None, questions: Sequence[str]
    ) -> tuple[str, ...]:
        """Return ``questions`` in the order in which to try them, without those that cannot see it.

        Args:
            stage: as for ``passed``.
            file: of the mutant.
            units: kernel files that a fault in it gets into, None when none need be compiled to see it.
            questions: ids.
        """
        words = set(WORD.findall(file.lower().rpartition("/")[2].partition(".")[0].replace("_", " ")))

        def merit(question: str) -> float:
            likely = LIKELY if words & set(WORD.findall(question)) else 0.5
            seconds = self._seconds.get((stage, question), UNKNOWN_SECONDS)
            return (self._kills[file, question] + likely) / max(seconds, SHORTEST_SECONDS)

        sighted = [
            question
            for question in questions
            if units is None or units & self._reached.get((stage, question), units)
        ]
        return tuple(sorted(sighted, key=merit, reverse=True))
