# SPDX-License-Identifier: Apache-2.0
"""Ratios of two series of times, with an interval and a p-value.

Over replicates a process is one observation: the logarithm of its median.  Five processes say little of how
far processes differ, three hundred cells of one sweep say much: the variance of a cell is drawn towards the
one that all cells share, by as much as theirs are alike (moderated t; Smyth, 2004, as limma does it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.analysis.statistics import CONFIDENCE, Series, scipy_part

TRIM = 0.2
"""Share of samples that are cut off at either end: a pre-empted sample must not decide."""
MIN_SAMPLES = 4
"""Fewest samples of one process whose trimmed mean has a spread."""
MIN_REPLICATES = 3
"""Fewest replicates that tell how far processes differ."""
MIN_CELLS = 10
"""Fewer cells say nothing of how alike their variances are."""
LEAST_VARIANCE = 1e-5
"""Part of the median variance below which none is believed: a logarithm has to be taken of it."""

Pairs = Sequence[tuple[Series, Series]]
"""Base and new run of each cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """New over base.

    Attributes:
        ratio: of the typical times; above 1 is slower.
        low, high: ends of its confidence interval.
        p: of a ratio so far from 1 by chance, two-sided, of this comparison alone.
        by: what the spread comes from: ``samples`` of one process, or ``replicates``.
    """

    ratio: float
    low: float
    high: float
    p: float
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What the cells of a sweep say of the variance of one more.

    Attributes:
        variance: of the logarithm of a process's median.
        freedom: how many degrees of freedom that is worth; infinite where all cells vary alike.
    """

    variance: float
    freedom: float


def prior_of(pairs: Pairs) -> Prior | None:
    """Return what ``pairs`` share, by the moments of the logarithms of their variances.

    Returns:
        None of fewer than ``MIN_CELLS`` pairs with enough replicates, or of series without noise.

    Raises:
        EnvironmentRefused: scipy is not installed.
    """
    spreads = [_pooled(*pair) for pair in pairs if _replicated(*pair) and _fewest(*pair) >= MIN_REPLICATES]
    variances = np.array([variance for variance, _ in spreads])
    if len(spreads) < MIN_CELLS or np.median(variances) == 0:
        return None
    special, optimize = scipy_part("special"), scipy_part("optimize")
    half = np.array([freedom / 2 for _, freedom in spreads])
    logs = np.log(np.maximum(variances, LEAST_VARIANCE * np.median(variances)))
    # less what chance alone makes of the logarithm of a variance with so many degrees of freedom
    shifted = logs - special.digamma(half) + np.log(half)
    beyond = float(shifted.var(ddof=1) - special.polygamma(1, half).mean())
    if beyond <= special.polygamma(1, 1e6):
        return Prior(variance=math.exp(shifted.mean()), freedom=math.inf)
    own = optimize.brentq(lambda value: special.polygamma(1, value) - beyond, 1e-9, 1e6)
    return Prior(variance=math.exp(shifted.mean() + special.digamma(own) - math.log(own)), freedom=2 * own)


def ratio_of(
    base: Series, new: Series, *, prior: Prior | None = None, confidence: float = CONFIDENCE
) -> Ratio:
    """Compare two series: Student's test over replicates, Yuen's trimmed one over samples of one process.

    Args:
        base, new: the series.
        prior: what other cells say of the variance over replicates.
        confidence: of the interval.

    Raises:
        ValueError: too few samples or replicates; the message says how many there are.
        EnvironmentRefused: scipy is not installed.
    """
    few = _fewest(base, new)
    if _replicated(base, new):
        if few < MIN_REPLICATES:
            raise ValueError(f"{few} replicate{'' if few == 1 else 's'}: fewer than {MIN_REPLICATES}")
        variance, freedom = _pooled(base, new)
        if prior is not None:
            variance, freedom = _moderated(variance, freedom, prior)
        shift = float(new.logs.mean() - base.logs.mean())
        variance *= sum(1 / len(side.replicates) for side in (base, new))
        return _ratio(shift, variance, freedom, confidence, by="replicates")
    sides = [np.log(side.samples) for side in (base, new)]
    few = min(map(len, sides))
    if few < MIN_SAMPLES:
        raise ValueError(f"{few} sample{'' if few == 1 else 's'}: fewer than {MIN_SAMPLES}")
    (first, var_first, df_first), (second, var_second, df_second) = map(_yuen, sides)
    variance = var_first + var_second
    freedom = variance**2 / (var_first**2 / df_first + var_second**2 / df_second) if variance else 1.0
    return _ratio(second - first, variance, freedom, confidence, by="samples")


def _replicated(base: Series, new: Series) -> bool:
    return max(len(side.replicates) for side in (base, new)) > 1


def _fewest(base: Series, new: Series) -> int:
    return min(len(side.replicates) for side in (base, new))


def _pooled(base: Series, new: Series) -> tuple[float, float]:
    """Variance of one process, the same in both runs, and its degrees of freedom."""
    sides = [side.logs for side in (base, new)]
    freedom = float(sum(len(side) - 1 for side in sides))
    return float(sum(((side - side.mean()) ** 2).sum() for side in sides)) / freedom, freedom


def _moderated(variance: float, freedom: float, prior: Prior) -> tuple[float, float]:
    if math.isinf(prior.freedom):
        return prior.variance, math.inf
    whole = prior.freedom + freedom
    return (prior.freedom * prior.variance + freedom * variance) / whole, whole


def _yuen(logs: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Trimmed mean, its variance by the winsorized samples (Yuen, 1974), degrees of freedom."""
    ordered, n = np.sort(logs), len(logs)
    cut = int(TRIM * n)
    kept = ordered[cut : n - cut]
    winsorized = np.clip(ordered, kept[0], kept[-1])
    left = len(kept)
    squares = float(((winsorized - winsorized.mean()) ** 2).sum())
    return float(kept.mean()), squares / (left * (left - 1)), left - 1.0


def _ratio(shift: float, variance: float, freedom: float, confidence: float, *, by: str) -> Ratio:
    ratio = math.exp(shift)
    if variance == 0:
        return Ratio(ratio=ratio, low=ratio, high=ratio, p=1.0 if shift == 0 else 0.0, by=by)
    law, error = scipy_part("stats").t, math.sqrt(variance)
    half = float(law.ppf((1 + confidence) / 2, freedom)) * error
    p = 2 * float(law.sf(abs(shift) / error, freedom))
    return Ratio(ratio=ratio, low=math.exp(shift - half), high=math.exp(shift + half), p=p, by=by)
