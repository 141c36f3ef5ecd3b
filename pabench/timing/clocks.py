# SPDX-License-Identifier: Apache-2.0
"""The clock of a GPU, sample by sample: what strays is marked, kept and shown, never thrown away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

STRAY = 0.05
"""A sample whose clock is off the median by more than this part is marked."""
UNSTABLE = 0.2
"""More marked samples than this part, and the cell is measured once more, then called unstable."""
Found = TypeVar("Found")


def strays(mhz: Sequence[float | None]) -> tuple[bool, ...]:
    """Return of each sample whether its clock strays; one without a clock does not."""
    known = [one for one in mhz if one is not None]
    middle = median(known) if known else 0.0
    return tuple(one is not None and abs(one - middle) > STRAY * middle for one in mhz)


def unstable(mhz: Sequence[float | None]) -> bool:
    """Return whether the clock moved so much that the samples do not belong together."""
    return sum(strays(mhz)) > UNSTABLE * len(mhz)


def taken_twice(
    take: Callable[[], Found], mhz_of: Callable[[Found], Sequence[float | None]], pause: Callable[[], None]
) -> tuple[Found, bool]:
    """Take samples, and once more after a pause where the clock moved.

    Args:
        take: takes all samples of a cell.
        mhz_of: their clocks.
        pause: lets the GPU cool.

    Returns:
        the samples of the last time, and whether it was the second.
    """
    found = take()
    if not unstable(mhz_of(found)):
        return found, False
    pause()
    return take(), True
