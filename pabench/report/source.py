# SPDX-License-Identifier: Apache-2.0
"""Journal lines as the report sees them: harmless text, and one state that cannot contradict itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabench.report.words import clean
from pabench.run.read import Run
from pabench.run.record import Record

SPEED_FIELDS = (
    *("plan_ns", "prepare_ns", "run_ns", "run_token_heads"),
    *("modelled_ns", "modelled_tokens_per_s", "modelled_bound"),
    *("counted_modelled_ns", "counted_bound", "closed_form_modelled_ns"),
    *("achieved_gbps", "read_fraction", "floor_fraction"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run: its folder and its name, its record with harmless text, whether its journal was torn."""

    path: Path
    name: str
    record: dict[str, Any]
    torn: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One record of a journal.

    Attributes:
        data: the record, flat, texts cleaned; speed figures are gone unless the result was found right.
        units: of its figures, by name.
        state: a status of ``run.record``, or ``unchecked`` (a cell that ran, but whose result nobody judged).
        run: position of its run.
    """

    data: dict[str, Any]
    state: str
    run: int
    units: dict[str, str]


KINDS = {
    "conformance": "check",
    "sweep": "cell",
    "operation": "operation",
    "serving": "server",
    "stress": "stress cell",
    "model": "model run",
}
"""Activities with sections of their own, in the order of the page, and what one of their items is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """All runs of a report, side by side; ``by_kind`` holds their lines by activity."""

    runs: tuple[RunView, ...]
    by_kind: dict[str, tuple[Line, ...]]

    def of(self, kind: str) -> tuple[Line, ...]:
        """Return the lines of an activity."""
        return self.by_kind.get(kind, ())

    @property
    def checks(self) -> tuple[Line, ...]:
        """Checks of conformance runs."""
        return self.of("conformance")

    @property
    def cells(self) -> tuple[Line, ...]:
        """Cells of sweeps."""
        return self.of("sweep")

    @property
    def operations(self) -> tuple[Line, ...]:
        """Operations beside attention of sweeps."""
        return self.of("operation")

    @property
    def servers(self) -> tuple[Line, ...]:
        """Servers of serving runs."""
        return self.of("serving")

    @property
    def stress(self) -> tuple[Line, ...]:
        """Cells of stress runs."""
        return self.of("stress")

    @property
    def models(self) -> tuple[Line, ...]:
        """Runs of a language model."""
        return self.of("model")

    @property
    def others(self) -> tuple[Line, ...]:
        """Items of activities that this package does not know."""
        return tuple(line for kind, lines in self.by_kind.items() if kind not in KINDS for line in lines)

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines, activity by activity."""
        known = tuple(line for kind in KINDS for line in self.of(kind))
        return known + self.others


def build_source(runs: Sequence[Run]) -> Source:
    """Merge runs: journals side by side, in the order given."""
    views: list[RunView] = []
    lines: dict[str, list[Line]] = {}
    for index, run in enumerate(runs):
        name = clean(run.path.name or str(run.path))
        views.append(RunView(path=run.path, name=name, record=clean(run.record), torn=run.torn))
        for record in run.records:
            lines.setdefault(record.kind, []).append(_line(record, index))
    return Source(runs=tuple(views), by_kind={kind: tuple(found) for kind, found in lines.items()})


def _line(record: Record, run: int) -> Line:
    data, state = clean(record.flat()), str(record.status)
    units = {clean(name): clean(figure.unit) for name, figure in record.figures.items()}
    if record.kind == "serving" and record.figures:
        data["figures"] = {clean(name): clean(figure.value) for name, figure in record.figures.items()}
    if record.kind == "sweep":
        if state == "passed":
            verdict = (data.get("check") or {}).get("passed")
            # a line that says passed beside a failed check is a failed line
            state = "unchecked" if verdict is None else "passed" if verdict else "failed"
        if state not in ("passed", "unchecked"):
            data = {key: None if key in SPEED_FIELDS else value for key, value in data.items()}
    return Line(data=data, state=state, run=run, units=units)
