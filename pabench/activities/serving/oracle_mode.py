# SPDX-License-Identifier: Apache-2.0
"""Oracle mode: a serving run that is a conformance run of its allocator too."""

from __future__ import annotations

from collections.abc import Callable

from pabench.activities.serving.recorded import RecordedAllocator, Violation
from pabench.judge.allocators.history import HistoryCase, shortest_history
from pabench.judge.allocators.invariants import violation
from pabench.judge.allocators.leftovers import leftovers_after_ending
from pabench.subjects.allocators.base import PageAllocator, PoolShape

SHRINK_ROUNDS = 200
"""Histories that are run to find a shorter one."""


class Watch:
    """Checks the invariants of ``allocators/invariants.py`` after every k-th step."""

    def __init__(self, allocator: PageAllocator, every: int) -> None:
        self._allocator, self._every = allocator, every
        self.checks = 0

    def __call__(self, step: int) -> None:
        """Look at the allocator after a step; raises ``Violation``."""
        if self._every and step % self._every == 0:
            self.checks += 1
            if found := violation(self._allocator):
                raise Violation(f"after step {step}: {found}")


def failing_history(
    allocator: RecordedAllocator, new: Callable[[PoolShape], PageAllocator]
) -> HistoryCase | None:
    """Return the shortest history found that breaks an invariant, or after which not all pages come back.

    None when it does not happen again.
    """
    for wrong in (violation, leftovers_after_ending):
        case = shortest_history(allocator.shape, allocator.operations, new, rounds=SHRINK_ROUNDS, wrong=wrong)
        if case is not None:
            return case
    return None
