# SPDX-License-Identifier: Apache-2.0
"""Who has come: requests by their time, and turns some time after the end of the turn before."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

import numpy as np

from pabench.workloads.requests import Requests


class Arrivals:
    """Requests that have not come yet.

    Attributes:
        ended: how many have ended.
        at_s: when each comes, or came; of a turn whose predecessor runs still, the earliest there may be.
    """

    def __init__(self, requests: Requests) -> None:
        self.ended = 0
        self.at_s: list[float] = requests.arrival_s.tolist()
        self._by_time: range | list[int] = range(requests.num_requests)
        self._next = 0
        self._turns = requests.turns
        self._then: dict[int, list[int]] = {}
        self._due: list[tuple[float, int]] = []
        if (turns := requests.turns) is not None:
            self._by_time = np.flatnonzero(turns.after < 0).tolist()
            for request, before in enumerate(turns.after.tolist()):
                if before >= 0:
                    self._then.setdefault(before, []).append(request)

    def come(self, clock: float) -> Iterator[int]:
        """Yield the requests that have come by now; ``end`` may be called in between."""
        by_time = self._by_time
        while self._next < len(by_time) and self.at_s[by_time[self._next]] <= clock:
            self._next += 1
            yield by_time[self._next - 1]
        while self._due and self._due[0][0] <= clock:
            yield heappop(self._due)[1]

    def next_s(self) -> float | None:
        """Return when the next one comes; None when nobody does, or only after the end of somebody here."""
        times = [self.at_s[self._by_time[self._next]]] if self._next < len(self._by_time) else []
        times += [self._due[0][0]] if self._due else []
        return min(times, default=None)

    def end(self, request: int, clock: float) -> None:
        """Count a request as ended, and let the turns come that wait for it."""
        self.ended += 1
        if self._turns is not None:
            for turn in self._then.pop(request, ()):
                self.at_s[turn] = max(self.at_s[turn], clock + float(self._turns.delay_s[turn]))
                heappush(self._due, (self.at_s[turn], turn))
