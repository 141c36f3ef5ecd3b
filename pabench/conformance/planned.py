"""A test of the suite before it runs, as supervisor and worker both know it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTest:
    """A test of the suite with the subject it will judge."""

    name: str
    subject: str
    subject_kind: str


def positions_of(count: int, share: tuple[int, int], *, since: int = 0) -> range:
    """Return the positions of a share's tests: one in ``share[1]``, so that shares take about as long.

    Args:
        count: of all tests.
        since: the first position that counts.
    """
    this, shares = share
    return range(since + (this - since) % shares, count, shares)
