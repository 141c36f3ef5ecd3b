# SPDX-License-Identifier: Apache-2.0
"""Counted figures: exact, the same on every machine, so that any difference is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pabench.comparison.delta import Change, Delta, delta_of
from pabench.comparison.pairs import Pair, shared_figures
from pabench.run.record import Provenance

WORK = frozenset(
    {
        *("tokens", "run_token_heads", "requests", "cases", "operations", "outputs", "prompt_tokens"),
        *("ratios", "max_ratio", "checked_operations"),
    }
)
"""What was asked, not what it cost."""
MORE_IS_BETTER = frozenset({"efficiency_gain", "served", "hits", "mean_batch", "peak_batch"})


def counted_deltas(pairs: Sequence[Pair]) -> Iterator[Delta]:
    """Yield a line for each counted figure that both runs have of an item that is right in both."""
    for record, name, old, new in shared_figures(pairs):
        if {old.provenance, new.provenance} == {Provenance.COUNTED}:
            change, reason = _change(name, old.value, new.value)
            yield delta_of(
                record,
                part="counted",
                figure=name,
                base=old.value,
                new=new.value,
                ratio=_ratio(old.value, new.value),
                change=change,
                reason=reason,
            )


def _change(name: str, old: Any, new: Any) -> tuple[Change, str]:
    if old == new:
        return Change.SAME, ""
    if name in WORK:
        return Change.CHANGED, "other work was asked"
    if not (_number(old) and _number(new)):
        return Change.CHANGED, ""
    return (Change.MORE if (new > old) != (name in MORE_IS_BETTER) else Change.LESS), ""


def _ratio(old: Any, new: Any) -> float | None:
    return float(new) / float(old) if _number(old) and _number(new) and old > 0 else None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
