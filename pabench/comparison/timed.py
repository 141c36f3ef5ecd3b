"""Timed figures: series of samples, compared with the noise that they have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pabench.analysis.statistics import Ratio, Series, adjusted, ratio_of, series_of
from pabench.comparison.delta import Change, Delta, delta_of
from pabench.comparison.pairs import Pair, shared_figures
from pabench.run.record import Figure, Provenance, Record

TIMED = frozenset({Provenance.MEASURED, Provenance.HOST})
LEVEL = 0.05
"""Share of false alarms among all SLOWER and FASTER of one comparison."""
THRESHOLD = 0.02
"""A smaller difference is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tested:
    delta: Delta
    ratio: Ratio


def timed_deltas(pairs: Sequence[Pair], *, threshold: float = THRESHOLD) -> list[Delta]:
    """Return a line for each timed series that both runs have of an item that is right in both.

    All ratios of the comparison are tested as one family, so that a sweep of 300 cells does not cry wolf
    fifteen times.

    Args:
        pairs: the items.
        threshold: relative difference below which times count as the same.
    """
    found = [_compared(*both) for both in _series(pairs)]
    p_values = iter(adjusted([one.ratio.p for one in found if isinstance(one, _Tested)]))
    return [_decided(one, next(p_values), threshold) if isinstance(one, _Tested) else one for one in found]


def has_times(pairs: Sequence[Pair]) -> bool:
    """Return whether there are times to compare."""
    return next(_series(pairs), None) is not None


def _series(pairs: Sequence[Pair]) -> Iterator[tuple[Record, str, Figure, Figure]]:
    return (both for both in shared_figures(pairs) if _is_series(both[2]) and _is_series(both[3]))


def _is_series(figure: Figure) -> bool:
    """A rate or another number of a clock without samples cannot be told from its noise."""
    return figure.provenance in TIMED and isinstance(figure.value, list) and figure.unit in ("ns", "s")


def _compared(record: Record, name: str, old: Figure, new: Figure) -> Delta | _Tested:
    delta = delta_of(record, part="timed", figure=name, change=Change.UNSURE)
    if old.provenance != new.provenance:
        return replace(delta, reason=f"{old.provenance} in the base, {new.provenance} in the new run")
    sides: list[Series] = []
    for figure, where in ((old, "base"), (new, "new run")):
        try:
            sides.append(series_of(figure.value))
        except ValueError as error:
            return replace(delta, reason=f"{error} in the {where}")
    base, other = sides
    delta = replace(delta, base=base.median, new=other.median)
    if base.same(other):
        return replace(delta, change=Change.SAME, ratio=1.0, low=1.0, high=1.0, reason="the same samples")
    try:
        return _Tested(delta=delta, ratio=ratio_of(base, other))
    except ValueError as error:
        return replace(delta, ratio=other.median / base.median, reason=str(error))


def _decided(one: _Tested, p: float, threshold: float) -> Delta:
    found = one.ratio
    delta = replace(one.delta, ratio=found.ratio, low=found.low, high=found.high)
    small = 1 / (1 + threshold) < found.ratio < 1 + threshold
    if p < LEVEL and not small:
        return replace(delta, change=Change.SLOWER if found.ratio > 1 else Change.FASTER)
    if 1 / (1 + threshold) < found.low and found.high < 1 + threshold:
        return replace(delta, change=Change.SAME)
    if p < LEVEL:
        return replace(delta, change=Change.SAME, reason=f"the difference is below {threshold:.1%}")
    reason = f"the noise of the {found.by} hides {threshold:.1%}: take more"
    return replace(delta, change=Change.UNSURE, reason=reason)
