# SPDX-License-Identifier: Apache-2.0
"""What became of verdicts: items that fail now, features, profiles and badges that are lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pabench.comparison.delta import Change, Delta, delta_of
from pabench.comparison.pairs import Pair
from pabench.run.read import Run
from pabench.run.record import BROKEN, JUDGED, Record, Status
from pabench.text import one_line

UNDECIDED = frozenset({Status.INCONCLUSIVE, Status.INTERRUPTED})
RATIO = "max_ratio"
NEAR = 0.5
"""Err/T below this is far from the bound, wherever it was before."""


def verdict_deltas(pairs: Sequence[Pair]) -> Iterator[Delta]:
    """Yield a line for each item, and one for each whose error came much nearer to its bound."""
    for pair in pairs:
        change, reason = _change(pair)
        told = {"base": _status(pair.base), "new": _status(pair.new), "reason": reason}
        yield delta_of(pair.any, part="verdicts", figure="status", change=change, **told)
        if pair.base is not None and pair.new is not None:
            yield from _nearer(pair.base, pair.new)


def summary_deltas(base: Run, new: Run) -> Iterator[Delta]:
    """Yield a line for each profile and badge that one conformance run holds and the other does not."""
    # loads the whole suite, which every page but that of a comparison does without
    from pabench.checks.summary import summaries

    first, second = (
        {(found.subject, found.device): found for found in summaries(_lines(run))} for run in (base, new)
    )
    for key in first.keys() & second.keys():
        for kind, before, after in (
            ("profile", first[key].profiles, second[key].profiles),
            ("badge", first[key].badges, second[key].badges),
        ):
            now = {claim.name: claim for claim in after}
            for claim in before:
                other = now.get(claim.name)
                if other is None or claim.held == other.held:
                    continue
                # what nothing judged is neither lost nor gained
                unjudged = "not-judged" in (claim.state, other.state)
                change = Change.LOST if claim.held else Change.GAINED
                yield Delta(
                    part="verdicts",
                    id=f"{kind}/{claim.name}",
                    label=f"{kind} {claim.name}",
                    subject=key[0],
                    device=key[1],
                    figure=kind,
                    base=claim.state,
                    new=other.state,
                    change=Change.UNSURE if unjudged else change,
                    reason=other.why if claim.held else claim.why,
                )


def _change(pair: Pair) -> tuple[Change, str]:
    before, after = pair.base, pair.new
    if before is None:
        return Change.NEW, "not in the base"
    if after is None:
        return Change.UNSURE, "not in the new run"
    for record, name in ((before, "base"), (after, "new run")):
        if record.status in UNDECIDED:
            return Change.UNSURE, f"{record.status} in the {name}"
    said = one_line(after.reason or "")
    if after.status in BROKEN:
        return (Change.SAME, "failing in both") if before.status in BROKEN else (Change.NEWLY_FAILING, said)
    if before.status in BROKEN:
        return (Change.NEWLY_PASSING, "") if after.status in JUDGED else (Change.LOST, said)
    if before.status == after.status:
        return Change.SAME, ""
    if after.status == Status.UNSUPPORTED:
        return Change.LOST, said
    if before.status == Status.UNSUPPORTED:
        return Change.GAINED, ""
    return Change.CHANGED, said


def _nearer(before: Record, after: Record) -> Iterator[Delta]:
    old, new = (record.figures.get(RATIO) for record in (before, after))
    if old is None or new is None or not all(isinstance(one.value, int | float) for one in (old, new)):
        return
    if NEAR < new.value <= 1 and 1 - new.value < (1 - old.value) / 2:
        reason = "err/T is nearer to 1: less than half the room to the bound is left"
        told = {"base": old.value, "new": new.value, "reason": reason}
        yield delta_of(after, part="verdicts", figure=RATIO, change=Change.NEARER, **told)


def _status(record: Record | None) -> str | None:
    return None if record is None else str(record.status)


def _lines(run: Run) -> list[dict[str, Any]]:
    return [{**line, "cases": line.get("cases") or 0} for line in run.lines]
