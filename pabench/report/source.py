"""Journal lines as the report sees them: harmless text, and one state that cannot contradict itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pabench.report.words import clean
from pabench.run.read import Run

SPEED_FIELDS = (
    *("plan_ns", "run_ns", "run_token_heads"),
    *("modelled_ns", "modelled_tokens_per_s", "modelled_bound"),
    *("counted_modelled_ns", "counted_bound", "closed_form_modelled_ns"),
    *("achieved_gbps", "read_fraction", "floor_fraction"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run: its folder's name, its record with harmless text, whether its journal was torn."""

    name: str
    record: dict[str, Any]
    torn: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One journal line.

    Attributes:
        data: the line, texts cleaned; speed figures are gone unless the result was found right.
        state: ``passed``, ``deviates`` (known deviations alone), ``failed``, ``crashed``, ``unsupported``,
            ``not-run`` (a check that an interrupt cut short), ``timeout`` (of a stress cell),
            ``inconclusive`` (of a model: a near tie)
            or ``unchecked`` (a cell that ran, but whose result nobody judged).
        run: position of its run.
    """

    data: dict[str, Any]
    state: str
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """All runs of a report, side by side."""

    runs: tuple[RunView, ...]
    cells: tuple[Line, ...]
    checks: tuple[Line, ...]
    servers: tuple[Line, ...] = ()
    stress: tuple[Line, ...] = ()
    models: tuple[Line, ...] = ()

    @property
    def lines(self) -> tuple[Line, ...]:
        """Checks, then cells, then servers, then stress, then models."""
        return self.checks + self.cells + self.servers + self.stress + self.models


def build_source(runs: Sequence[Run]) -> Source:
    """Merge runs: journals side by side, in the order given."""
    views, cells, checks, servers, stress, models = [], [], [], [], [], []
    for index, run in enumerate(runs):
        name = clean(run.path.name or str(run.path))
        views.append(RunView(name=name, record=clean(run.record), torn=run.torn))
        for raw in run.lines:
            data = clean(raw)
            if data["kind"] == "cell":
                cells.append(_cell(data, index))
            elif data["kind"] == "serving":
                state = {"ok": "passed", "interrupted": "not-run"}.get(data["status"], data["status"])
                servers.append(Line(data=data, state=state, run=index))
            elif data["kind"] == "stress":
                state = "passed" if data["status"] == "ok" else data["status"]
                stress.append(Line(data=data, state=state, run=index))
            elif data["kind"] == "model":
                state = "passed" if data["status"] == "ok" else data["status"]
                models.append(Line(data=data, state=state, run=index))
            else:
                checks.append(Line(data=data, state=data["status"], run=index))
    return Source(
        runs=tuple(views),
        cells=tuple(cells),
        checks=tuple(checks),
        servers=tuple(servers),
        stress=tuple(stress),
        models=tuple(models),
    )


def _cell(data: dict[str, Any], run: int) -> Line:
    state = "passed" if data["status"] == "ok" else data["status"]
    if state == "passed":
        verdict = (data.get("check") or {}).get("passed")
        # a line that says ok beside a failed check is a failed line
        state = "unchecked" if verdict is None else "passed" if verdict else "failed"
    if state not in ("passed", "unchecked"):
        data = {key: None if key in SPEED_FIELDS else value for key, value in data.items()}
    return Line(data=data, state=state, run=run)
