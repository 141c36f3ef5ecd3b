# SPDX-License-Identifier: Apache-2.0
"""Runs launches of many requests at once on a pool, and says what is wrong with what became of them.

A page has one owner at a time, which the launch itself checks by marks on the device; a request gets all of
its pages or none; whoever is refused could not have been served last; when nothing runs the free pages are
those that nobody holds.  Pools are held to exact refusal: free pages and decision are one atomic operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pabench.judge.allocators.operations import Operation
from pabench.kernels.pool_launches import PoolLaunches
from pabench.problem.dtypes import Array

VIOLATIONS = ("taken while somebody held it", "given by nobody", "holding words of two owners")


@dataclass(slots=True)
class PoolTrial:
    """A pool, and who holds which page.

    Attributes:
        pool: on trial, in whichever process it lies; all of its pages free at first.
        held: pages in somebody's hands, oldest first.
    """

    pool: PoolLaunches
    held: list[int] = field(default_factory=list)

    def perform(self, operation: Operation) -> str | None:
        """Do ``launch``, ``churn`` or ``drain``; return a violation in words, or None."""
        name, given = operation
        if name == "launch":
            return self._launch(given["counts"], given["frees"])
        if name == "churn":
            return self._churn(given["threads"], given["rounds"], given["most"])
        return self._launch([], len(self.held)) or self._launch([1] * self.pool.num_pages, 0)

    def _launch(self, counts: Sequence[int], frees: int) -> str | None:
        gone, self.held = self.held[:frees], self.held[frees:]
        before = self.pool.num_pages - len(gone) - len(self.held)
        pages, done, violations, free = self.pool.launch(counts, gone, self.held)
        granted = []
        for request, (count, row, says) in enumerate(
            zip(counts, pages.tolist(), done.tolist(), strict=False)
        ):
            got = [page for page in row if page >= 0]
            if says not in (0, 1) or len(got) != count * says:
                return f"request {request} for {count} pages got {len(got)}, must get all or none"
            granted += got
        self.held += granted
        return (
            unlawful(counts, done.tolist(), before)
            or _stamped(violations)
            or _twice(granted)
            or self._quiescent(free)
        )

    def _churn(self, threads: int, rounds: int, most: int) -> str | None:
        served, violations, free = self.pool.churn(self.held, threads=threads, rounds=rounds, most=most)
        if len(self.held) + most <= self.pool.num_pages and not served.any():
            return f"nobody was served in {rounds} rounds of up to {most} pages"
        return _stamped(violations) or self._quiescent(free)

    def _quiescent(self, free: Sequence[int]) -> str | None:
        """Whether the free pages are those that nobody holds."""
        wanted = set(range(self.pool.num_pages)) - set(self.held)
        if sorted(free) != sorted(wanted):
            return (
                f"{len(free)} entries in the free list, {len(set(free) & wanted)} of {len(wanted)} free pages"
            )
        return None


def _stamped(violations: Array) -> str | None:
    for count, what in zip(violations.tolist(), VIOLATIONS, strict=True):
        if count:
            return f"a page was found {count} times {what}"
    return None


def unlawful(counts: Sequence[int], served: Sequence[int], free: int) -> str | None:
    """Return what no order of the requests explains, or None.

    A request that was refused found too few pages at some moment.  The least that can be left is
    what remains when all who were served have taken theirs and no page is back yet that they did not need.

    Args:
        counts: pages of each request.
        served: 1 for a request that was served, 0 for one that was refused.
        free: pages free before the launch; those given back in it may be used or not.
    """
    taken = sum(count for count, done in zip(counts, served, strict=True) if done)
    for request, (count, done) in enumerate(zip(counts, served, strict=True)):
        if not done and count <= max(0, free - taken):
            return f"request {request} for {count} pages was refused while {free - taken} of {free} were left"
    return None


def _twice(pages: Sequence[int]) -> str | None:
    seen = sorted(pages)
    for page, following in pairwise(seen):
        if page == following:
            return f"page {page} was granted twice in one launch"
    return None
