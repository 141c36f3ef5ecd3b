"""What judging mutants has taught so far: which tests reach a kernel file, how long each takes, what kills.

A search for what kills a mutant then begins with the tests that have killed most a second, and leaves out
those that compile nothing that the fault is in: with the same cases they do what they did before.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

WORD = re.compile(r"[a-z0-9]+")
LIKELY = 3.0
"""Kills that a test is believed to have made, when it is named after the file."""
UNKNOWN_SECONDS = 1.0


@dataclass(slots=True)
class Experience:
    """Of one run of the matrix; threads may share it."""

    _reached: dict[tuple[object, str], frozenset[str]] = field(default_factory=dict)
    _seconds: dict[tuple[object, str], float] = field(default_factory=dict)
    _kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def passed(self, stage: object, test: str, *, seconds: float, reached: Sequence[str]) -> None:
        """Remember that ``test`` ran to its end.

        Args:
            stage: what else its cases follow from: subject, profile, scope and seed.
            test: its name.
            seconds: that it took.
            reached: names of the kernel files that it compiled or loaded.
        """
        with self._lock:
            self._reached[stage, test] = frozenset(reached)
            self._seconds[stage, test] = seconds

    def killed(self, file: str, test: str) -> None:
        """Remember that ``test`` killed a mutant of ``file``."""
        with self._lock:
            self._kills[file, test] += 1

    def order(
        self, stage: object, file: str, units: frozenset[str] | None, tests: Mapping[str, str]
    ) -> tuple[str, ...]:
        """Return names of ``tests`` in the order in which to try them, without those that cannot see it.

        Args:
            stage: as for ``passed``.
            file: of the mutant.
            units: kernel files that a fault in it gets into, None when a test need not compile any to see it.
            tests: name to check id.
        """
        words = set(WORD.findall(file.lower().rpartition("/")[2].partition(".")[0].replace("_", " ")))

        def merit(test: str) -> float:
            likely = LIKELY if words & set(WORD.findall(tests[test])) else 0.5
            return (self._kills[file, test] + likely) / self._seconds.get((stage, test), UNKNOWN_SECONDS)

        with self._lock:
            sighted = [
                test for test in tests if units is None or units & self._reached.get((stage, test), units)
            ]
            return tuple(sorted(sighted, key=merit, reverse=True))
