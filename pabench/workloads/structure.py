# SPDX-License-Identifier: Apache-2.0
"""What ties requests together: prompts that begin alike, and turns that wait for the turn before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pabench.problem.dtypes import Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segments:
    """Beginnings of prompts as runs of tokens; equal ids at the same place are the same tokens.

    Attributes:
        ids: int64 >= 0, all requests one behind the other.
        tokens: int64, how long each run is.
        indptr: int64 ``(num_requests + 1,)``.
        output_ids: int64 ``(num_requests,)``, the id under which a later prompt holds the output; -1 for
            none.
    """

    ids: Array
    tokens: Array
    indptr: Array
    output_ids: Array

    def first(self, count: int) -> Segments:
        """Return those of the first ``count`` requests."""
        end = int(self.indptr[count])
        return Segments(
            ids=self.ids[:end],
            tokens=self.tokens[:end],
            indptr=self.indptr[: count + 1],
            output_ids=self.output_ids[:count],
        )

    def ordered(self, order: Array) -> Segments:
        """Return those of requests ``order``, in that order."""
        counts = np.diff(self.indptr)[order]
        indptr = np.concatenate(([0], np.cumsum(counts)))
        taken = np.repeat(self.indptr[:-1][order] - indptr[:-1], counts) + np.arange(indptr[-1])
        return Segments(
            ids=self.ids[taken],
            tokens=self.tokens[taken],
            indptr=indptr,
            output_ids=self.output_ids[order],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turns:
    """A closed loop: a turn arrives some time after the turn before has its last token.

    Attributes:
        after: int64 ``(num_requests,)``, the request that must have ended, an earlier one; -1 for none.
        delay_s: float64 ``(num_requests,)``, seconds from that end, >= 0.
    """

    after: Array
    delay_s: Array

    def first(self, count: int) -> Turns:
        """Return those of the first ``count`` requests."""
        return Turns(after=self.after[:count], delay_s=self.delay_s[:count])

    def ordered(self, order: Array) -> Turns:
        """Return those of requests ``order``, which keeps each behind the one that it waits for."""
        place = np.empty(order.size + 1, np.int64)
        place[order] = np.arange(order.size)
        place[-1] = -1  # where -1 points
        return Turns(after=place[self.after[order]], delay_s=self.delay_s[order])
