# SPDX-License-Identifier: Apache-2.0
"""Timed figures: series of samples, compared with the noise that they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from pabench.analysis.ratios import Prior, Ratio, prior_of, ratio_of
from pabench.analysis.statistics import Series, adjusted, series_of
from pabench.comparison.delta import Change, Delta, delta_of
from pabench.comparison.pairs import Pair, shared_figures
from pabench.run.record import Figure, Provenance, Record
from pabench.run.replicates import by_replicate

TIMED = frozenset({Provenance.MEASURED, Provenance.HOST})
LEVEL = 0.05
"""Share of false alarms among all SLOWER and FASTER of one comparison."""
THRESHOLD = 0.02
"""A smaller difference is none."""


NS, CYCLES = "_ns", "_cycles"
"""A series of times may have the same in cycles of the clock that each sample was taken at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Both:
    """Both series of a figure, and how their medians in cycles are to one another, where that is known."""

    delta: Delta
    base: Series
    new: Series
    cycles: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tested:
    both: _Both
    ratio: Ratio


def timed_deltas(pairs: Sequence[Pair], *, threshold: float = THRESHOLD) -> list[Delta]:
    """Return a line for each timed series that both runs have of an item that is right in both.

    All ratios of the comparison are tested as one family, so that a sweep of 300 cells does not cry wolf
    fifteen times.  The cells of a figure share what they say of the noise from process to process.

    Args:
        pairs: the items.
        threshold: relative difference below which times count as the same.
    """
    read = [_read(*found) for found in _series(pairs)]
    figure: Callable[[_Both], str] = lambda one: one.delta.figure  # noqa: E731
    both = sorted((one for one in read if isinstance(one, _Both)), key=figure)
    priors = {name: prior_of([(one.base, one.new) for one in of]) for name, of in groupby(both, key=figure)}
    found = [_compared(one, priors[figure(one)]) if isinstance(one, _Both) else one for one in read]
    p_values = iter(adjusted([one.ratio.p for one in found if isinstance(one, _Tested)]))
    return [_decided(one, next(p_values), threshold) if isinstance(one, _Tested) else one for one in found]


def has_times(pairs: Sequence[Pair]) -> bool:
    """Return whether there are times to compare."""
    return next(_series(pairs), None) is not None


def _series(pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Record, str]]:
    for pair in pairs:
        for record, name, old, new in shared_figures([pair]):
            if _is_series(old) and _is_series(new):
                yield pair, record, name


def _is_series(figure: Figure) -> bool:
    """A rate or another number of a clock without samples cannot be told from its noise."""
    return figure.provenance in TIMED and isinstance(figure.value, list) and figure.unit in ("ns", "s")


def _read(pair: Pair, record: Record, name: str) -> Delta | _Both:
    assert pair.base is not None
    assert pair.new is not None
    delta = delta_of(record, part="timed", figure=name, change=Change.UNSURE)
    words = [side.figures[name].provenance for side in (pair.base, pair.new)]
    if words[0] != words[1]:
        return replace(delta, reason=f"{words[0]} in the base, {words[1]} in the new run")
    if not pair.base.figures[name].value and not pair.new.figures[name].value:
        # an allocator that was asked once has a first call and no later ones
        return replace(delta, change=Change.SAME, reason="no samples in either run")
    sides: list[Series] = []
    for side, where in ((pair.base, "base"), (pair.new, "new run")):
        try:
            sides.append(series_of(by_replicate(side, name)))
        except ValueError as error:
            return replace(delta, reason=f"{error} in the {where}")
    base, new = sides
    delta = replace(delta, base=base.median, new=new.median)
    if base.same(new):
        return replace(delta, change=Change.SAME, ratio=1.0, low=1.0, high=1.0, reason="the same samples")
    return _Both(delta=delta, base=base, new=new, cycles=_cycles(pair.base, pair.new, name))


def _cycles(base: Record, new: Record, name: str) -> float | None:
    """The ratio in cycles of a clock, which does not move when the clock does."""
    beside = name.removesuffix(NS) + CYCLES
    try:
        old, other = (series_of(by_replicate(side, beside)).median for side in (base, new))
    except (KeyError, ValueError):
        return None
    return other / old


def _compared(both: _Both, prior: Prior | None) -> Delta | _Tested:
    try:
        return _Tested(both=both, ratio=ratio_of(both.base, both.new, prior=prior))
    except ValueError as error:
        return replace(both.delta, ratio=both.new.median / both.base.median, reason=str(error))


def _decided(one: _Tested, p: float, threshold: float) -> Delta:
    found, cycles = one.ratio, one.both.cycles
    delta = replace(one.both.delta, ratio=found.ratio, low=found.low, high=found.high)
    small = 1 / (1 + threshold) < found.ratio < 1 + threshold
    if p < LEVEL and not small:
        if cycles is not None and (cycles > 1) != (found.ratio > 1):
            reason = f"{found.ratio:.3f} times as long, {cycles:.3f} times the cycles: the clock differs"
            return replace(delta, change=Change.UNSURE, reason=reason)
        return replace(delta, change=Change.SLOWER if found.ratio > 1 else Change.FASTER)
    if 1 / (1 + threshold) < found.low and found.high < 1 + threshold:
        return replace(delta, change=Change.SAME)
    if p < LEVEL:
        return replace(delta, change=Change.SAME, reason=f"the difference is below {threshold:.1%}")
    reason = f"the noise of the {found.by} hides {threshold:.1%}: take more"
    return replace(delta, change=Change.UNSURE, reason=reason)
