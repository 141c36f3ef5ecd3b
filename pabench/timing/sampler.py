# SPDX-License-Identifier: Apache-2.0
"""When to stop measuring: samples until the median is known well enough, or until time or count runs out.

Nothing is thrown away: every sample is kept in its order.  The interval of the median needs no assumption
about the distribution: of n independent samples the k-th smallest and k-th largest enclose the median with
probability ``1 - 2 P(B(n, 1/2) < k)`` (the sign test).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from pabench.errors import InvalidCase

CONFIDENCE = 0.95
CLOCK_ALIKE = 0.02
CLOCK_SECONDS = 0.2
"""The clock of a GPU has settled when it has moved by no more than this part for so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRule:
    """When enough is enough.

    Attributes:
        least, most: samples.
        seconds: of measuring, on the host's clock; looked at once ``least`` is reached, or after ten times
            as long.
        half_width: of the interval of the median, as a part of the median, that is good enough.
    """

    least: int = 20
    most: int = 200
    seconds: float = 0.5
    half_width: float = 0.003

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise InvalidCase("least", self.least, f"must be in 1..{self.most}, the most")


DEFAULT_RULE = StopRule()


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What was measured.

    Attributes:
        values_ns: in the order they were taken.
        stopped: why no more: ``precise``, ``count`` or ``time``.
    """

    values_ns: tuple[float, ...]
    stopped: str

    @property
    def median_ns(self) -> float:
        """The middle one."""
        return float(median(self.values_ns))

    @property
    def interval_ns(self) -> tuple[float, float]:
        """The interval of the median, 95 % or as near as so few samples allow."""
        return median_interval(self.values_ns)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the order statistics that enclose the median with 95 %; of fewer than six the extremes."""
    ordered = sorted(values)
    k = max(1, interval_rank(len(ordered)))
    return ordered[k - 1], ordered[-k]


def interval_rank(n: int, confidence: float = CONFIDENCE) -> int:
    """Return the k for which the k-th smallest to the k-th largest of ``n`` samples cover the median.

    They miss it with probability ``2 P(Binomial(n, 1/2) < k)``, whatever the distribution.

    Returns:
        The largest k that misses with at most ``1 - confidence``; 0 where even the extremes miss more often.
    """
    k, below = 0, 0.0
    while k < n:
        below += math.comb(n, k) / 2.0**n
        if 2 * below > 1 - confidence:
            break
        k += 1
    return k


def sample(
    once: Callable[[], float], rule: StopRule = DEFAULT_RULE, *, clock: Callable[[], float] = time.monotonic
) -> Samples:
    """Call ``once``, which returns nanoseconds, until ``rule`` is content."""
    values: list[float] = []
    began = clock()
    while True:
        values.append(once())
        spent = clock() - began
        if spent > 10 * rule.seconds:
            return Samples(values_ns=tuple(values), stopped="time")
        if len(values) < rule.least:
            continue
        low, high = median_interval(values)
        if high - low <= 2 * rule.half_width * median(values):
            return Samples(values_ns=tuple(values), stopped="precise")
        if len(values) >= rule.most:
            return Samples(values_ns=tuple(values), stopped="count")
        if spent > rule.seconds:
            return Samples(values_ns=tuple(values), stopped="time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmth:
    """How a warm-up went.

    Attributes:
        last_ns: the last time.
        calls: how many there were.
        settled: times, and the clock where it is known, had settled when it ended.
    """

    last_ns: float
    calls: int
    settled: bool


def warm_up(
    once: Callable[[], float],
    *,
    seconds: float = 0.05,
    limit_seconds: float = 1.0,
    alike: float = 0.05,
    clock: Callable[[], float] = time.monotonic,
    mhz: Callable[[], float | None] = lambda: None,
) -> Warmth:
    """Call ``once`` until compilers and clocks have settled.

    Args:
        once: returns nanoseconds.
        seconds: to go on at least, so that the clocks rise.
        limit_seconds: to go on at most, save for the two calls that are always made.
        alike: two neighbouring times that differ by no more than this part have settled.
        clock: seconds, rising.
        mhz: the GPU's clock at the last call, where it is known; it has settled when it stayed within
            ``CLOCK_ALIKE`` for ``CLOCK_SECONDS``.
    """
    began = clock()
    before, now, calls = once(), once(), 2
    rates: deque[tuple[float, float]] = deque()
    while True:
        spent = clock() - began
        rate = mhz()
        if rate is not None:
            rates.append((spent, rate))
        settled = abs(now - before) <= alike * max(now, before) and (rate is None or _still(rates))
        if spent >= limit_seconds or (settled and spent >= seconds):
            return Warmth(last_ns=now, calls=calls, settled=settled)
        before, now, calls = now, once(), calls + 1


def _still(rates: deque[tuple[float, float]]) -> bool:
    """Whether the clock has not moved in the last ``CLOCK_SECONDS``; forgets what was before."""
    last = rates[-1][0]
    while len(rates) > 1 and rates[1][0] <= last - CLOCK_SECONDS:
        rates.popleft()
    seen = [rate for _, rate in rates]
    return last - rates[0][0] >= CLOCK_SECONDS and max(seen) <= (1 + CLOCK_ALIKE) * min(seen)
