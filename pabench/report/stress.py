# SPDX-License-Identifier: Apache-2.0
"""Stress of page allocators as a table: what a call cost, first and later, and how memory held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from pabench.report.source import Source
from pabench.report.words import DASH, TIMES, digits, number, percent, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class StressFigures:
    """The figures of one cell in words; ``first`` and ``steady`` are host times, ``memory`` was counted."""

    requests: str
    first: str
    steady: str
    memory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StressRow:
    """One cell."""

    subject: str
    device: str
    scenario: str
    state: str
    reason: str
    figures: StressFigures


def build_stress(source: Source) -> tuple[StressRow, ...]:
    """Return a row a cell, in the order of the journals."""
    return tuple(
        StressRow(
            subject=str(line.data["subject"]),
            device=str(line.data["device"]),
            scenario=str(line.data["check"]),
            state=line.state,
            reason=str(line.data.get("reason") or ""),
            figures=figures_of(line.data),
        )
        for line in source.stress
    )


def figures_of(data: Mapping[str, Any]) -> StressFigures:
    """Return the figures of a journal line, whatever of them is there."""
    first, steady = [], []
    for name, word in (("take", "take"), ("give", "give back"), ("step", "step"), ("refusal", "refuse")):
        if (one := number(data.get(f"{name}_first_ns"))) is not None:
            first.append(f"{word} {_time(one)}")
        if samples := _numbers(data.get(f"{name}_ns")):
            steady.append(f"{word} {_time(median(samples))}{_each(data, name, median(samples))}")
    requests = DASH
    if data.get("requests") is not None:
        requests = f"{whole(data.get('served'))} of {whole(data['requests'])}"
    return StressFigures(
        requests=requests,
        first=", ".join(first) or DASH,
        steady=", ".join(steady) or DASH,
        memory=_memory(data) or DASH,
    )


OVER_TIME: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("spread", "spread", digits),
    ("scattered", "neighbours apart", percent),
    ("run_pages", "pages per run", digits),
    ("copies", "copies to move a sequence", digits),
)


def _each(data: Mapping[str, Any], name: str, middle: float) -> str:
    """The share of one request, or page, in a call for many."""
    size = number(data.get("size"))
    return f" ({digits(middle / size)} ns each)" if size and size > 1 and name in ("take", "give") else ""


def _memory(data: Mapping[str, Any]) -> str:
    said = []
    if utilisation := _numbers(data.get("utilisation")):
        least, most = percent(min(utilisation)), percent(max(utilisation))
        said.append(f"tokens in {percent(median(utilisation))} of the slots at the first refusal")
        said.append(f"{least} to {most}")
    elif occupancy := _numbers(data.get("occupancy")):
        said.append(f"{percent(median(occupancy))} in use")
    for name, word, show in OVER_TIME:
        if series := _numbers(data.get(name)):
            shown = [show(value) for value in _over_time(series)]
            said.append(f"{word} {' → '.join(shown)}")
    if data.get("refused"):
        said.append(f"{whole(data['refused'])} refused")
    return ", ".join(said)


def _over_time(series: list[float]) -> list[float]:
    """The first value, the one in the middle and the last."""
    return [series[0], series[len(series) // 2], series[-1]]


def _numbers(values: Any) -> list[float]:
    found = [number(value) for value in values] if isinstance(values, list) else []
    return [value for value in found if value is not None and value == value]


def _time(value_ns: float) -> str:
    factor, unit = next(((f, u) for f, u in TIMES if abs(value_ns) >= f), TIMES[-1])
    return f"{digits(value_ns / factor)} {unit}"
