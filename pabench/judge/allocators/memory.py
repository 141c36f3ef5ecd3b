# SPDX-License-Identifier: Apache-2.0
"""What a subject has handed out and must not change, and whether it keeps more memory the longer it runs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pabench.judge.allocators.operations import Operation
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator
from pabench.subjects.allocators.kept import MOST_TABLES, Digests, KeptResults, digests
from pabench.subjects.allocators.rounds import Rounds

GROWTH_BYTES = 2**13
"""Memory that may be kept however many calls there were: dictionaries grow in leaps."""
GROWTH_PER_CALL = 4
"""Bytes more for each call: less than a number in a list takes."""


@dataclass(slots=True)
class HandedOut:
    """What each operation of a history gave, as it was told first.

    Attributes:
        subject: an allocator here, whose results are kept; or one elsewhere, which keeps them for us.
    """

    subject: PageAllocator
    _first: list[tuple[str, Digests]] = field(default_factory=list)
    _tables: deque[Array] = field(default_factory=lambda: deque(maxlen=MOST_TABLES))
    _kept: KeptResults = field(default_factory=KeptResults)

    def keep(self, operation: Operation, result: Any) -> None:
        """Remember what an operation gave, and the table after it."""
        table = self.subject.block_table()
        self._first.append((operation[0], digests(result)))
        self._tables.append(np.array(table))
        if not hasattr(self.subject, "handed_out"):
            self._kept.keep(result, table)

    def changed(self) -> str | None:
        """Ask for all of it again; return what is not as it was told first, or None."""
        ask = getattr(self.subject, "handed_out", self._kept.again)
        again: list[Digests] = ask()
        if len(again) != len(self._first):
            return f"{len(again)} results are there of {len(self._first)} operations"
        for (_, first), table in zip(self._first[-len(self._tables) :], self._tables, strict=True):
            first |= digests(None, table)
        for number, ((name, first), now) in enumerate(zip(self._first, again, strict=True), start=1):
            for part, said in now.items():
                if said != first.get(part):
                    return f"invariant 5: {part} of operation {number} ({name}) have changed since"
        return None


def grown_memory(rounds: Rounds, calls: int) -> str | None:
    """Return by how much a subject's memory has grown over rounds that leave nothing behind, or None.

    What grows with the calls grows in both halves; caches of Python and numpy fill in the first one, long
    after the rounds have begun.

    Args:
        rounds: what became of them.
        calls: made in all of them.
    """
    early, middle, late = rounds.memory
    # three of four rounds lie between the first and the last
    allowed = GROWTH_BYTES + GROWTH_PER_CALL * calls * 3 // 4
    if 2 * min(middle - early, late - middle) <= allowed:
        return None
    said = f"{late - early} bytes of memory more after {calls * 3 // 4} calls that leave nothing behind"
    return f"invariant 13: {said}, may be {allowed}"
