"""A test of the suite before it runs, as supervisor and worker both know it."""

from __future__ import annotations

from dataclasses import dataclass

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTest:
    """A test of the suite with the subject it will judge."""

    name: str
    subject: str
    subject_kind: str


def positions_of(count: int, share: tuple[int, int], *, since: int = 0) -> list[int]:
    """Return the positions of a share's tests, in ascending order.

    Tests follow one another by subject and by kind, in periods of any length; steps of the golden ratio on a
    circle fall evenly into its parts whatever the period, so that shares take about as long.

    Args:
        count: of all tests.
        share: which part of how many.
        since: the first position that counts.
    """
    this, shares = share
    scattered = sorted(range(count), key=lambda position: position * GOLDEN % 1.0)
    mine = scattered[count * this // shares : count * (this + 1) // shares]
    return sorted(position for position in mine if position >= since)
