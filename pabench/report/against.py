# SPDX-License-Identifier: Apache-2.0
"""A report's run beside its base: what became worse, on the page that shows the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pabench.comparison.compare import Comparison, compare_runs
from pabench.comparison.delta import CLASSES
from pabench.comparison.pairs import unlike_machines
from pabench.comparison.words import change_words, headline, ordered
from pabench.errors import UsageError
from pabench.report.words import DASH, clean, digits, number
from pabench.run.read import Run

MOST_ROWS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """The comparison on the page.

    Attributes:
        base: the folder of the base.
        headline: the answer in one line.
        tone: name of its colours.
        rows: (what became of it, item, base, new, worse), regressions first.
        left: rows that are not shown.
        notes: what a reader has to know.
    """

    base: str
    headline: str
    tone: str
    rows: tuple[tuple[str, str, str, str, bool], ...]
    left: int
    notes: tuple[str, ...]


def build_against(runs: Sequence[Run], base: Run) -> Against:
    """Return the comparison of ``base`` with the one of ``runs`` that is of its activity.

    Times are compared where both runs are of one machine.

    Raises:
        UsageError: no run of that activity, or nothing in common.
        NothingToCompare: an empty run.
    """
    new = next((run for run in runs if run.kind == base.kind), None)
    if new is None:
        kinds = ", ".join(dict.fromkeys(run.kind for run in runs))
        raise UsageError(f"--base {base.path}: a run of {base.kind}, must be of {kinds}")
    unlike = unlike_machines(base, new)
    found = compare_runs(base, new, parts=[part for part in CLASSES if part != "timed" or not unlike])
    notes = ("Times are left out: the runs are of two machines.",) if unlike else ()
    return _view(found, notes)


def _view(found: Comparison, notes: tuple[str, ...]) -> Against:
    told = ordered(found)
    rows = tuple(
        (
            clean(change_words(delta)),
            clean(delta.label, "text"),
            _value(delta.base),
            _value(delta.new),
            delta.worse,
        )
        for delta in told[:MOST_ROWS]
    )
    return Against(
        base=clean(found.base),
        headline=clean(headline(found), "text"),
        tone="failed" if found.worse else "passed" if found.exit_code == 0 else "warned",
        rows=rows,
        left=max(0, len(told) - MOST_ROWS),
        notes=(*notes, *(clean(note, "text") for note in found.notes)),
    )


def _value(value: object) -> str:
    figure = None if isinstance(value, str) else number(value)
    if figure is None:
        return DASH if value is None else str(clean(str(value)))
    return digits(figure)
