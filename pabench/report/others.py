# SPDX-License-Identifier: Apache-2.0
"""Items of activities that have no section of their own: what became of each, and its figures."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pabench.report.source import Line, Source
from pabench.report.words import DASH, digits, number

MAX_SERIES = 4
"""Numbers of a series that are shown; the journal has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherRow:
    """One item; ``figures`` are (name, value with unit, provenance)."""

    activity: str
    label: str
    subject: str
    device: str
    state: str
    reason: str
    figures: tuple[tuple[str, str, str], ...]


def build_others(source: Source, *, without: Collection[str] = ()) -> tuple[OtherRow, ...]:
    """Return a row an item, in the order of the journals, but for activities in ``without``."""
    return tuple(
        OtherRow(
            activity=str(line.data["kind"]),
            label=str(line.data["label"]),
            subject=str(line.data["subject"]),
            device=str(line.data["device"]),
            state=line.state,
            reason=str(line.data.get("reason") or ""),
            figures=_figures(line),
        )
        for line in source.others
        if line.data["kind"] not in without
    )


def _figures(line: Line) -> tuple[tuple[str, str, str], ...]:
    found = []
    for name, word in line.data["provenance"].items():
        unit = line.units.get(name, "")
        found.append((name, f"{_value(line.data.get(name))} {unit}".strip(), str(word)))
    return tuple(found)


def _value(value: object) -> str:
    if isinstance(value, list):
        shown = ", ".join(_value(one) for one in value[:MAX_SERIES])
        return shown + (", …" if len(value) > MAX_SERIES else "")
    if isinstance(value, str):
        return value
    return DASH if value is None else digits(number(value))
