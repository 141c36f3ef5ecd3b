"""Statistics of timed samples: medians with intervals, ratios of two series, many ratios at once.

Times are positive and their noise multiplies, so ratios are differences of logarithms.  Samples of one
process share its state (clocks, placement of memory) and tell nothing of the next process: where a series
has replicates, a replicate is one observation, however many samples it took.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from pabench.errors import EnvironmentRefused
from pabench.timing.sampler import interval_rank

TRIM = 0.2
"""Share of samples that are cut off at either end: a pre-empted sample must not decide."""
MIN_SAMPLES = 4
"""Fewest samples of one process whose trimmed mean has a spread."""
MIN_REPLICATES = 3
"""Fewest replicates that tell how far processes differ."""
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """Samples of one figure, by process replicate; all finite and above 0.

    Attributes:
        replicates: one array a process, in the order of time.
    """

    replicates: tuple[np.ndarray[Any, Any], ...]

    @property
    def samples(self) -> np.ndarray[Any, Any]:
        """All samples."""
        return np.concatenate(self.replicates)

    @property
    def median(self) -> float:
        """Median of the samples; of the medians of replicates where there are several."""
        return float(np.median([np.median(one) for one in self.replicates]))

    def same(self, other: Series) -> bool:
        """Whether both hold the same numbers."""
        mine, theirs = self.replicates, other.replicates
        pairs = zip(mine, theirs, strict=False)
        return len(mine) == len(theirs) and all(np.array_equal(a, b) for a, b in pairs)


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


def series_of(value: Any) -> Series:
    """Read a figure's value: a list of samples of one process, or a list of such lists, one a replicate.

    Raises:
        ValueError: no samples, or one that is no finite number above 0; the message says which.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("no samples")
    nested = all(isinstance(one, list | tuple) for one in value)
    replicates = [_numbers(one) for one in (value if nested else [value])]
    return Series(replicates=tuple(replicates))


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


def ratio_of(base: Series, new: Series, *, confidence: float = CONFIDENCE) -> Ratio:
    """Compare two series: Welch's test over replicates, or Yuen's trimmed one over samples of one process.

    With few clusters a bootstrap over them covers too little; Student's t does not.

    Raises:
        ValueError: too few samples or replicates; the message says how many there are.
        EnvironmentRefused: scipy is not installed.
    """
    many = min(len(base.replicates), len(new.replicates)) > 1
    if many:
        few = min(len(base.replicates), len(new.replicates))
        if few < MIN_REPLICATES:
            raise ValueError(f"{few} replicates: fewer than {MIN_REPLICATES}")
        sides = [
            np.array([math.log(float(np.median(one))) for one in side.replicates]) for side in (base, new)
        ]
        centres = [_welch(side) for side in sides]
    else:
        sides = [np.log(side.samples) for side in (base, new)]
        few = min(map(len, sides))
        if few < MIN_SAMPLES:
            raise ValueError(f"{few} sample{'' if few == 1 else 's'}: fewer than {MIN_SAMPLES}")
        centres = [_yuen(side) for side in sides]
    (first, var_first, df_first), (second, var_second, df_second) = centres
    return _ratio(
        second - first,
        ((var_first, df_first), (var_second, df_second)),
        confidence,
        by="replicates" if many else "samples",
    )


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Return p-values held to the false discovery rate of all of them (Benjamini and Hochberg, 1995)."""
    if not p_values:
        return []
    return [float(p) for p in _scipy("stats").false_discovery_control(np.asarray(p_values), method="bh")]


def _numbers(samples: Any) -> np.ndarray[Any, Any]:
    if not samples:
        raise ValueError("no samples")
    for sample in samples:
        if isinstance(sample, bool) or not isinstance(sample, int | float):
            raise ValueError(f"a sample is {type(sample).__name__}, must be a number")
        if not math.isfinite(sample) or sample <= 0:
            raise ValueError(f"a sample is {sample:g}, must be finite and above 0")
    return np.asarray(samples, dtype=np.float64)


def _welch(logs: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Mean, its variance, degrees of freedom."""
    return float(logs.mean()), float(logs.var(ddof=1)) / len(logs), len(logs) - 1.0


def _yuen(logs: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Trimmed mean, its variance by the winsorized samples (Yuen, 1974), degrees of freedom."""
    ordered, n = np.sort(logs), len(logs)
    cut = int(TRIM * n)
    kept = ordered[cut : n - cut]
    winsorized = np.clip(ordered, kept[0], kept[-1])
    left = len(kept)
    squares = float(((winsorized - winsorized.mean()) ** 2).sum())
    return float(kept.mean()), squares / (left * (left - 1)), left - 1.0


def _ratio(
    shift: float, spreads: tuple[tuple[float, float], tuple[float, float]], confidence: float, *, by: str
) -> Ratio:
    variance = sum(one for one, _ in spreads)
    if variance == 0:
        ratio = math.exp(shift)
        return Ratio(ratio=ratio, low=ratio, high=ratio, p=1.0 if shift == 0 else 0.0, by=by)
    freedom = variance**2 / sum(one**2 / degrees for one, degrees in spreads)
    special, error = _scipy("special"), math.sqrt(variance)
    half = float(special.stdtrit(freedom, (1 + confidence) / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(shift) / error))
    return Ratio(ratio=math.exp(shift), low=math.exp(shift - half), high=math.exp(shift + half), p=p, by=by)


def _scipy(name: str) -> Any:
    try:
        return import_module(f"scipy.{name}")
    except ImportError:
        what = "timed figures are compared with scipy, which is not installed"
        hint = "pip install 'pabench[compare]', or leave them out with --only verdicts,counted"
        raise EnvironmentRefused(what, hint=hint) from None
