# SPDX-License-Identifier: Apache-2.0
"""Requests that wait for admission, in the order of the scheduler."""

from __future__ import annotations

from heapq import heappop, heappush

from pabench.activities.serving.schedulers import Rank


class Queue:
    """The next one first.

    Args:
        rank: of each request; None for first come, first served, where a request that was preempted is next.
    """

    def __init__(self, rank: Rank | None) -> None:
        self._rank = rank
        self._waiting: list[tuple[tuple[float, int], int]] = []
        self._came = self._returned = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    @property
    def first(self) -> int:
        """The request that is next; there must be one."""
        return self._waiting[0][1]

    def come(self, request: int) -> None:
        """Let a request wait that was not here before."""
        self._came += 1
        self._push(request, self._came)

    def come_again(self, request: int) -> None:
        """Let a request wait that has lost its pages."""
        self._returned -= 1
        self._push(request, self._returned)

    def leave(self) -> int:
        """Take the first one out and return it."""
        return heappop(self._waiting)[1]

    def _push(self, request: int, turn: int) -> None:
        heappush(self._waiting, (self._rank(request) if self._rank else (0.0, turn), request))
