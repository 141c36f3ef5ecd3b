# SPDX-License-Identifier: Apache-2.0
"""Pages given back while steps were in flight: nobody may have them before these steps have ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pabench.problem.dtypes import Array
from pabench.subjects.allocators.results import NULL_PAGE


@dataclass(slots=True)
class Fence:
    """Steps in flight, oldest first, and the pages that left all tables while each was the latest."""

    steps: deque[set[int]] = field(default_factory=deque)

    def passed(self, name: str, before: Array, now: Array, adopted: Sequence[int] = ()) -> str | None:
        """Follow an operation that was done; return which page it took behind the fence, or None.

        Args:
            name: of the operation.
            before, now: the tables before and after it.
            adopted: pages of a hit, which are only read.
        """
        if name == "begin_step":
            self.steps.append(set())
        elif name == "end_step":
            self.steps.popleft()
        if not self.steps:
            return None
        held, holds = _pages(before), _pages(now)
        taken = holds - held
        for pages in self.steps:
            if early := (taken & pages).difference(adopted):
                return f"invariant 16: {name} granted page {min(early)}, which a step in flight may still use"
            pages -= taken
        self.steps[-1] |= held - holds
        return None


def _pages(table: Array) -> set[int]:
    found = set(np.unique(table).tolist())
    found.discard(NULL_PAGE)
    return found
