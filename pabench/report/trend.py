# SPDX-License-Identifier: Apache-2.0
"""Waste by page size: pooled over everything for the table, per length family for the line chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pabench.report.heat import short_names
from pabench.report.palette import LINES
from pabench.report.source import Line, Source
from pabench.report.words import digits, number, percent, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSizeRow:
    """One page size, all distinct batches of the sweep taken together."""

    page_size: int
    batches: int
    pages: str
    waste: str
    gain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendLine:
    """One length family: (page size, wasted share of slots) in order of page size."""

    name: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """The line chart: its batch size, its lines, the families that did not fit."""

    batch: int
    lines: tuple[TrendLine, ...]
    left_out: tuple[str, ...]


def distinct_memory(source: Source) -> list[dict[str, Any]]:
    """Return one line for each distinct (page size, lengths, batch, seed): no backend changes memory."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in source.cells:
        data = line.data
        if all(data.get(key) is not None for key in ("slots", "waste_tokens", "num_pages")) and _counted(
            line
        ):
            found[(data["page_size"], data["lengths"], data["batch"], data.get("seed"))] = data
    return list(found.values())


def build_page_sizes(source: Source) -> tuple[PageSizeRow, ...]:
    """Return the pooled figures by page size.

    What is pooled, and how, is said by ``pooled_memory``.
    """
    if not (lines := distinct_memory(source)):
        return ()
    # heavy to import, and a report without cells has no use for it
    from pabench.analysis.page_sizes import pooled_memory

    return tuple(
        PageSizeRow(
            page_size=int(str(size)),
            batches=row["batches"],
            pages=whole(row["pages"]),
            waste=percent(row["waste"]),
            gain="–" if math.isnan(row["gain"]) else f"{digits(row['gain'])} ×",
        )
        for size, row in pooled_memory(lines).to_dict("index").items()
    )


def build_trend(source: Source) -> Trend | None:
    """Return the line chart for the batch size with most points (the larger one of equals), if it has any."""
    lines = [
        line for line in distinct_memory(source) if number(line.get("internal_fragmentation")) is not None
    ]
    batches = {line["batch"] for line in lines}
    if not batches or len({line["page_size"] for line in lines}) < 2:
        return None
    batch = max(batches, key=lambda b: (sum(line["batch"] == b for line in lines), b))
    # several seeds would put several points on one place: the first stands for all
    seed = min((line.get("seed") or 0) for line in lines if line["batch"] == batch)
    chosen = [line for line in lines if line["batch"] == batch and (line.get("seed") or 0) == seed]
    names = short_names([line["lengths"] for line in chosen])
    drawn = tuple(_line(chosen, spec, name) for spec, name in list(names.items())[: len(LINES)])
    return Trend(batch=batch, lines=drawn, left_out=tuple(list(names)[len(LINES) :]))


def _line(lines: Sequence[dict[str, Any]], spec: str, name: str) -> TrendLine:
    own = {
        line["page_size"]: float(line["internal_fragmentation"]) for line in lines if line["lengths"] == spec
    }
    return TrendLine(name=name, points=tuple(sorted(own.items())))


def _counted(line: Line) -> bool:
    words = line.data.get("provenance") or {}
    return words.get("internal_fragmentation", words.get("slots")) == "counted"
