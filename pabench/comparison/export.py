# SPDX-License-Identifier: Apache-2.0
"""Runs in the forms that other tools read."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import pandas as pd

from pabench import __version__
from pabench.analysis.frame import frame_of
from pabench.analysis.statistics import series_of, typical_interval
from pabench.comparison.traces import trace_bytes
from pabench.comparison.words import cell
from pabench.errors import EnvironmentRefused
from pabench.run.files import plain, pretty
from pabench.run.junit import junit_text
from pabench.run.read import Run
from pabench.run.record import JUDGED, Figure, Provenance, Record
from pabench.run.replicates import by_replicate
from pabench.run.schema import SCHEMA

MARKDOWN_FIGURES = 6
"""Columns that a pull request has room for."""


def _table(runs: Sequence[Run]) -> pd.DataFrame:
    """The table with series and other nested values as JSON text, which every format can hold."""
    frame = frame_of(runs)
    for name in frame.columns:
        column = frame[name]
        if column.map(lambda value: isinstance(value, list | dict | tuple)).any():
            frame[name] = column.map(_text)
        elif column.dtype == object and column.map(type).nunique() > 1:
            # one column, one type: numbers beside words are words
            frame[name] = column.map(lambda value: value if value is None or value != value else str(value))
    return frame


def _csv(runs: Sequence[Run]) -> bytes:
    return _table(runs).to_csv(index=False).encode("utf-8", "replace")


def _parquet(runs: Sequence[Run]) -> bytes:
    buffer, frame = io.BytesIO(), _table(runs)
    # pandas writes attributes as JSON, where they are of use
    frame.attrs = {"units": frame.attrs["units"], "provenance": frame.attrs["provenance"]}
    try:
        frame.to_parquet(buffer, index=False)
    except ImportError:
        raise EnvironmentRefused(
            "Parquet is written with pyarrow, which is not installed", hint="pip install pyarrow"
        ) from None
    return buffer.getvalue()


def _json(runs: Sequence[Run]) -> bytes:
    told = {
        "schema": SCHEMA,
        "pabench": __version__,
        "runs": [
            {
                "path": str(run.path),
                "run": run.record,
                "records": [record.to_line() for record in run.records],
            }
            for run in runs
        ],
    }
    return pretty(plain(told)).encode()


def _junit(runs: Sequence[Run]) -> bytes:
    kinds = dict.fromkeys(run.kind for run in runs)
    return junit_text("+".join(kinds), _records(runs), {}).encode()


def _markdown(runs: Sequence[Run]) -> bytes:
    frame = frame_of(runs)
    names = [name for name in frame.attrs["units"] if name in frame.columns][:MARKDOWN_FIGURES]
    head = ["item", "status", *names, "reason"]
    lines = [f"| {' | '.join(map(cell, head))} |", f"|{' --- |' * len(head)}"]
    for record in _records(runs):
        values = [record.label, str(record.status), *(_shown(record.figures.get(name)) for name in names)]
        lines.append(f"| {' | '.join(cell(value) for value in (*values, record.reason or ''))} |")
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _bmf(runs: Sequence[Run]) -> bytes:
    """Bencher Metric Format: benchmark to measure to value, with the interval of a median."""
    told: dict[str, dict[str, dict[str, float]]] = {}
    for record in _records(runs):
        if record.status not in JUDGED:
            continue
        # what a model says is no result of a run
        measures = {
            name: metric
            for name, figure in record.figures.items()
            if figure.provenance != Provenance.MODELLED and (metric := _metric(record, name)) is not None
        }
        if measures:
            name = record.subject.name
            label = record.label if name in record.label else f"{name}: {record.label}"
            told[label] = {**told.get(label, {}), **measures}
    return pretty(told).encode()


FORMATS: dict[str, Callable[[Sequence[Run]], bytes]] = {
    "csv": _csv,
    "parquet": _parquet,
    "json": _json,
    "junit": _junit,
    "md": _markdown,
    "bmf": _bmf,
    "flashinfer-trace": trace_bytes,
}
"""Name to what writes it."""


def _records(runs: Sequence[Run]) -> list[Record]:
    return [record for run in runs for record in run.records]


def _metric(record: Record, name: str) -> dict[str, float] | None:
    value = record.figures[name].value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"value": float(value)}
    try:
        series = series_of(by_replicate(record, name))
    except (ValueError, TypeError):
        return None
    found = None
    with contextlib.suppress(EnvironmentRefused):  # without scipy a value has no interval
        found = typical_interval(series)
    if found is None:
        return {"value": series.median}
    return {"value": series.median, "lower_value": found[0], "upper_value": found[1]}


def _shown(figure: Figure | None) -> str:
    if figure is None or figure.value is None:
        return ""
    value = median(figure.value) if isinstance(figure.value, list) and figure.value else figure.value
    number = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f"{number} {figure.unit}".strip()


def _text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict | tuple) else value
