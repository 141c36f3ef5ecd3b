# SPDX-License-Identifier: Apache-2.0
"""A folder of runs as one page: each run's verdict, newest first, and what changed from run to run."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from pabench import __version__
from pabench.comparison.pairs import NothingToCompare
from pabench.errors import PabenchError, UsageError
from pabench.report.facts import duration
from pabench.report.faults import build_cards
from pabench.report.palette import DARK, LIGHT, LINES
from pabench.report.source import build_source
from pabench.report.templates import template
from pabench.report.verdict import build_verdict
from pabench.report.words import clean, digits, whole
from pabench.run.directory import REPORT_FILE
from pabench.run.files import atomic_write_text
from pabench.run.read import RUN_FILE, Run, read_run
from pabench.run.record import BROKEN, JUDGED, Provenance, Record, Status

MAX_DEPTH, MAX_RUNS = 3, 400
MOST_FIGURES = 12
"""Of one series, those that changed most."""
WIDTH, HEIGHT = 180, 30


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run: its verdict in words, and the address of its page beside this one, empty without one."""

    name: str
    kind: str
    started: str
    took: str
    commit: str
    word: str
    tone: str
    said: str
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendRow:
    """One figure over the runs of a series, oldest first."""

    figure: str
    word: str
    values: tuple[str, ...]
    svg: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Runs that ask the same of the same subjects."""

    title: str
    runs: tuple[str, ...]
    items: int
    rows: tuple[TrendRow, ...]


def render_index(folder: Path, out: Path) -> Path:
    """Write the page over the runs below ``folder`` to ``out`` and return it.

    Raises:
        UsageError: no such folder.
        NothingToCompare: there is no run in it.
    """
    runs, broken = read_folder(folder)
    page = template("index.html.j2").render(
        folder=clean(str(folder)),
        rows=[_row(run, folder, out) for run in reversed(runs)],
        series=build_series(runs, folder),
        broken=broken,
        version=__version__,
        light=asdict(LIGHT),
        dark=asdict(DARK),
        line=LINES[0],
    )
    atomic_write_text(out, page)
    return out


def read_folder(folder: Path) -> tuple[list[Run], list[tuple[str, str]]]:
    """Return the runs below a folder, oldest first, and (place, reason) of those that cannot be read."""
    if not folder.is_dir():
        raise UsageError(f"--index {folder}: is no folder")
    places = sorted(
        path.parent
        for depth in range(MAX_DEPTH + 1)
        for path in folder.glob("/".join(["*"] * depth + [RUN_FILE]))
    )
    runs, broken = [], []
    for place in places[:MAX_RUNS]:
        try:
            runs.append(read_run(place))
        except PabenchError as error:
            broken.append((clean(str(place.relative_to(folder))), clean(str(error), "text")))
    if not runs:
        raise NothingToCompare(f"--index {folder}: holds no run")
    return sorted(runs, key=lambda run: str(run.record["started"])), broken


def build_series(runs: Sequence[Run], folder: Path) -> tuple[Series, ...]:
    """Return the series of two runs and more: figures of the items that all of their runs have."""
    groups: dict[tuple[str, tuple[str, ...]], list[Run]] = {}
    for run in runs:
        subjects = tuple(sorted({record.subject.name for record in run.records}))
        if subjects:
            groups.setdefault((run.kind, subjects), []).append(run)
    alike = {key: _alike(found) for key, found in groups.items()}
    return tuple(_series(*key, found, folder) for key, found in alike.items() if len(found) > 1)


def _alike(runs: Sequence[Run]) -> list[Run]:
    """The runs that have at least half of what the newest was asked: another grid is another series."""
    asked = _ids(runs[-1])
    return [run for run in runs if 2 * len(_ids(run) & asked) >= len(asked)]


def _ids(run: Run) -> set[str]:
    return {record.id for record in run.records}


def _series(kind: str, subjects: Sequence[str], runs: Sequence[Run], folder: Path) -> Series:
    common = set.intersection(*map(_ids, runs))
    sets = [{record.id: record for record in run.records if record.id in common} for run in runs]
    wrong = [float(sum(record.status in BROKEN for record in found.values())) for found in sets]
    judged = [float(sum(record.status in JUDGED | BROKEN for record in found.values())) for found in sets]
    rows = [_trend("items wrong", "", wrong), _trend("items judged", "", judged)]
    figures = []
    for name, word in _names(sets):
        values = [value for found in sets if (value := _total(found, name, word)) is not None]
        if len(values) == len(sets) and len(set(values)) > 1:
            figures.append((name, word, values))
    figures.sort(key=lambda one: -_moved(one[2]))
    rows += [_trend(name, word, values) for name, word, values in figures[:MOST_FIGURES]]
    few = ", ".join(subjects[:4]) + (", …" if len(subjects) > 4 else "")
    return Series(
        title=clean(f"{kind.capitalize()} of {few}", "text"),
        runs=tuple(clean(str(run.path.relative_to(folder))) for run in runs),
        items=len(common),
        rows=tuple(rows),
    )


def _names(sets: Sequence[dict[str, Record]]) -> list[tuple[str, str]]:
    """Counted and measured figures; a model follows from the rest, and a host's clock is of its machine."""
    found = {
        (name, str(figure.provenance)): None
        for records in sets
        for record in records.values()
        for name, figure in record.figures.items()
        if figure.provenance in (Provenance.COUNTED, Provenance.MEASURED)
    }
    return list(found)


def _total(records: dict[str, Record], name: str, word: str) -> float | None:
    """The sum over all items, of medians where a figure is a series; None where one item lacks it."""
    total = 0.0
    for record in records.values():
        figure = record.figures.get(name)
        if figure is None or str(figure.provenance) != word:
            if record.status == Status.PASSED:
                return None
            continue
        value = figure.value
        if isinstance(value, list) and value and all(isinstance(one, int | float) for one in value):
            value = median(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        total += value
    return total


def _moved(values: Sequence[float]) -> float:
    return abs(values[-1] - values[0]) / (abs(values[0]) or 1.0)


def _trend(figure: str, word: str, values: Sequence[Any]) -> TrendRow:
    return TrendRow(
        figure=clean(figure),
        word=word,
        values=tuple(whole(value) if value == int(value) else digits(value, 4) for value in values),
        svg=Markup(_sparkline(values)),
    )


def _sparkline(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    step = (WIDTH - 8) / max(1, len(values) - 1)
    flat, room = high == low, HEIGHT - 8
    heights = [0.5 if flat else (value - low) / (high - low) for value in values]
    places = [(4 + at * step, HEIGHT - 4 - share * room) for at, share in enumerate(heights)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    x, y = places[-1]
    return (
        f'<svg class="chart" width="{WIDTH}" height="{HEIGHT}" aria-hidden="true">'
        f'<polyline fill="none" stroke="{LINES[0][0]}" stroke-width="2" points="{line}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{LINES[0][0]}"/></svg>'
    )


def _row(run: Run, folder: Path, out: Path) -> RunRow:
    source = build_source([run])
    found = build_verdict(source, build_cards(source, drawn=False), ())
    page = run.path / REPORT_FILE
    near = quote(os.path.relpath(page, out.parent)) if page.is_file() else ""
    provenance = source.runs[0].record["provenance"]
    return RunRow(
        name=clean(str(run.path.relative_to(folder))),
        kind=run.kind,
        started=str(source.runs[0].record["started"]).replace("T", " ").replace("Z", " UTC"),
        took=duration(source.runs[0].record),
        commit=str(provenance.get("git_commit") or "")[:12],
        word=found.word,
        tone=found.tone,
        said=found.headline or found.sentence,
        href=near,
    )
