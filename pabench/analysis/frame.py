# SPDX-License-Identifier: Apache-2.0
"""A run, or several, as one DataFrame: a row a record, a column a figure or a detail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pabench.run.read import Run, read_runs
from pabench.run.record import Record

FIRST = ("run", "kind", "id", "label", "subject", "subject_kind", "device", "status", "reason")
"""Columns that every table begins with."""
WORDS = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}
"""JSON has no such numbers: a journal holds their names."""


def read(*paths: str | Path) -> pd.DataFrame:
    """Read run directories into one table.

    Args:
        paths: run directories, of any activity and of either schema.

    Returns:
        One row a record, in the order of the journals.  Columns: those of ``FIRST``, then figures, then
        details.  A figure that is a series (``run_ns``) stays a list.  ``attrs["units"]`` and
        ``attrs["provenance"]`` map figures to their unit and to ``measured``, ``counted``, ``modelled`` or
        ``host``; figures of two classes must not be compared.

    Raises:
        UsageError: no path, no run directory, or a line that breaks the schema; the message names it.
    """
    return frame_of(read_runs([Path(path) for path in paths]))


def frame_of(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the table of runs that have been read; see ``read``."""
    rows: list[dict[str, Any]] = []
    units: dict[str, str] = {}
    provenance: dict[str, str] = {}
    details: dict[str, None] = {}
    for run in runs:
        for record in run.records:
            rows.append({"run": run.path.name, **_row(record)})
            for name, figure in record.figures.items():
                units.setdefault(name, figure.unit)
                word = str(figure.provenance)
                # one name with two provenances is no single quantity, and the table says so
                provenance[name] = word if provenance.get(name, word) == word else "mixed"
            details |= dict.fromkeys(record.details)
    columns = [*FIRST, *units, *(name for name in details if name not in units and name not in FIRST)]
    frame = pd.DataFrame(rows, columns=columns)
    frame.attrs.update(units=units, provenance=provenance)
    return frame


def _row(record: Record) -> dict[str, Any]:
    flat = record.flat()
    return {
        name: WORDS.get(value, value) if isinstance(value, str) else value for name, value in flat.items()
    }
