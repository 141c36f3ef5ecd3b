# SPDX-License-Identifier: Apache-2.0
"""Statistics of timed samples: series of one process or of several, intervals, many p-values at once.

Times are positive and their noise multiplies, so ratios are differences of logarithms.  Samples of one
process share its state (clocks, placement of memory) and tell nothing of the next process: where a series
has replicates, a replicate is one observation, however many samples it took.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import Any

import numpy as np

from pabench.errors import EnvironmentRefused
from pabench.timing.sampler import interval_rank

CONFIDENCE = 0.95
RESAMPLES = 9999
MIN_BOOTSTRAPPED = 5
"""Fewest processes that can be drawn from: of 4 the interval covers 87 times in 100."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """Samples of one figure, by process replicate; all finite and above 0.

    Attributes:
        replicates: one array a process, in the order of time.
        medians: of each, ``(processes,)``.
    """

    replicates: tuple[np.ndarray[Any, Any], ...]
    medians: np.ndarray[Any, Any]

    @property
    def samples(self) -> np.ndarray[Any, Any]:
        """All samples."""
        return np.concatenate(self.replicates)

    @property
    def median(self) -> float:
        """Median of the samples; of the medians of replicates where there are several."""
        return float(np.median(self.medians))

    @property
    def logs(self) -> np.ndarray[Any, Any]:
        """Logarithms of the medians."""
        logs: np.ndarray[Any, Any] = np.log(self.medians)
        return logs

    def same(self, other: Series) -> bool:
        """Whether both hold the same numbers."""
        mine, theirs = self.replicates, other.replicates
        pairs = zip(mine, theirs, strict=False)
        return len(mine) == len(theirs) and all(np.array_equal(a, b) for a, b in pairs)


def series_of(value: Any) -> Series:
    """Read a figure's value: a list of samples of one process, or a list of such lists, one a replicate.

    Raises:
        ValueError: no samples, or one that is no finite number above 0; the message says which.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("no samples")
    nested = all(isinstance(one, list | tuple) for one in value)
    parts = value if nested else [value]
    replicates = tuple(_numbers(one) for one in parts)
    return Series(replicates=replicates, medians=np.array([median(one) for one in parts], np.float64))


def median_interval(
    samples: Sequence[float], *, confidence: float = CONFIDENCE
) -> tuple[float, float, float] | None:
    """Return the median and the interval between two order statistics that covers it.

    Returns:
        median, low, high; None where even smallest to largest covers less than ``confidence`` (below 6
        samples for 95 %).
    """
    ordered, n = np.sort(np.asarray(samples, dtype=np.float64)), len(samples)
    k = interval_rank(n, confidence)
    if k == 0:
        return None
    return float(np.median(ordered)), float(ordered[k - 1]), float(ordered[n - k])


def typical_interval(series: Series, *, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Return the interval of a typical time: order statistics of one process, else a cluster bootstrap.

    The bootstrap draws processes, which are what varies; samples of one go together.  Of few processes the
    plain percentiles are too near to one another, so that the level is widened (Hesterberg, 2015, 5.2) to
    cover as often as Student's interval.

    Raises:
        EnvironmentRefused: scipy is not installed, and there are replicates.
    """
    many = len(series.replicates)
    if many == 1:
        found = median_interval(series.samples.tolist(), confidence=confidence)
        return None if found is None else found[1:]
    if many < MIN_BOOTSTRAPPED:
        return None
    if np.ptp(series.logs) == 0:
        return series.median, series.median
    stats = scipy_part("stats")
    student = float(stats.t.ppf((1 + confidence) / 2, many - 1))
    widened = 1 - 2 * float(stats.norm.sf(student * math.sqrt(many / (many - 1))))
    drawn = stats.bootstrap(
        (series.logs,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=widened,
        method="percentile",
        vectorized=True,
        random_state=np.random.default_rng(0),  # the same interval every time
    )
    low, high = drawn.confidence_interval
    return math.exp(low), math.exp(high)


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Return p-values held to the false discovery rate of all of them (Benjamini and Hochberg, 1995)."""
    if not p_values:
        return []
    return [float(p) for p in scipy_part("stats").false_discovery_control(np.asarray(p_values), method="bh")]


def _numbers(samples: Any) -> np.ndarray[Any, Any]:
    if not samples:
        raise ValueError("no samples")
    for sample in samples:
        if isinstance(sample, bool) or not isinstance(sample, int | float):
            raise ValueError(f"a sample is {type(sample).__name__}, must be a number")
        if not math.isfinite(sample) or sample <= 0:
            raise ValueError(f"a sample is {sample:g}, must be finite and above 0")
    return np.asarray(samples, dtype=np.float64)


def scipy_part(name: str) -> Any:
    """Return a module of scipy; raises ``EnvironmentRefused`` where it is not installed."""
    try:
        return import_module(f"scipy.{name}")
    except ImportError:
        what = "timed figures are compared with scipy, which is not installed"
        hint = "pip install 'pabench[compare]', or leave them out with --only verdicts,counted"
        raise EnvironmentRefused(what, hint=hint) from None
