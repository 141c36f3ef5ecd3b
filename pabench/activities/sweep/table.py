# SPDX-License-Identifier: Apache-2.0
"""The short table of results on standard output."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pabench.text import one_line, plural

MAX_ROWS = 40
"""Rows on the screen; the report and the journal have all."""
PIPE_COLUMNS = 150
"""Width where standard output is no terminal and ``COLUMNS`` is not set."""

Line = Mapping[str, Any]

Column = tuple[str, str, Callable[[Line], str]]
"""Head, provenance, and what a line has there."""
_ALWAYS: tuple[Column, ...] = (
    ("page", "", lambda line: str(line["page_size"])),
    ("lengths", "", lambda line: str(line["lengths"])),
    ("batch", "", lambda line: str(line["batch"])),
)
_IF_VARIED = (
    "backend",
    "heads",
    "dtype",
    "kv_layout",
    "interleaved",
    "l2",
    "kv_dtype",
    "q_len",
    "shared_pages",
)
GAP = 2


def print_table(lines: Sequence[Line]) -> None:
    """Print one row a cell, status first, with the provenance of each figure, then reasons and counts.

    Figures that the screen has no room for are left out, by name: the status never is.
    """
    from rich.text import Text

    console, (columns, left_out) = _console(), _fitting(lines)
    for row in _aligned(lines[:MAX_ROWS], columns):
        console.print(Text(row), soft_wrap=True)
    if len(lines) > MAX_ROWS:
        more = plural(len(lines) - MAX_ROWS, "more cell")
        console.print(f"... and {more} in the report", markup=False)
    if left_out:
        console.print(f"no room for: {', '.join(left_out)}; the report has all", markup=False)
    for reason, count in Counter(_reason(line) for line in lines if line["reason"]).items():
        console.print(Text(one_line(f"{count} {reason}")), soft_wrap=True)
    states = [line["status"] for line in lines]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    console.print(f"{plural(len(lines), 'cell')}: {counts}", markup=False)


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, emoji=False, width=PIPE_COLUMNS)
    return console


def _fitting(lines: Sequence[Line]) -> tuple[list[Column], list[str]]:
    """The columns that fit side by side, and the heads of those that do not."""
    gpu = lines[0]["modelled_gpu"] if lines else "GPU"
    columns: list[Column] = [*_ALWAYS]
    for name in _IF_VARIED:
        if len({line.get(name) for line in lines}) > 1:
            columns.append((name, "", lambda line, name=name: str(line.get(name))))  # type: ignore[misc]
    columns.append(("status", "", lambda line: str(line["status"])))
    kept = len(columns)
    columns += _figures(gpu)
    room = _console().width
    while len(columns) > kept and _width(lines, columns) > room:
        columns.pop()
    return columns, [head for head, _, _ in _figures(gpu)[len(columns) - kept :]]


def _figures(gpu: str) -> list[Column]:
    """What decides first."""
    return [
        ("err/T", "check", lambda line: _ratio(line["check"])),
        ("waste %", "counted", lambda line: f"{100 * line['internal_fragmentation']:.2f}"),
        ("gain", "counted", lambda line: f"{line['efficiency_gain']:.3f}"),
        ("tokens/s, 1 layer", f"modelled, {gpu}", lambda line: _count(line["modelled_tokens_per_s"])),
        ("pages", "counted", lambda line: f"{line['num_pages']:,}"),
        ("table bytes", "counted", lambda line: f"{line['block_table_bytes']:,}"),
    ]


def _ratio(check: Mapping[str, Any] | None) -> str:
    return "-" if check is None or check["max_ratio"] is None else f"{float(check['max_ratio']):.2f}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _texts(lines: Sequence[Line], column: Column) -> list[str]:
    return [column[0], column[1], *(one_line(column[2](line)) for line in lines)]


def _width(lines: Sequence[Line], columns: Sequence[Column]) -> int:
    return sum(max(map(len, _texts(lines[:MAX_ROWS], column))) + GAP for column in columns) - GAP


def _aligned(lines: Sequence[Line], columns: Sequence[Column]) -> list[str]:
    cells = []
    for column in columns:
        texts = _texts(lines, column)
        wide, left = max(map(len, texts)), column[0] in ("lengths", "status")
        cells.append([text.ljust(wide) if left else text.rjust(wide) for text in texts])
    return [(" " * GAP).join(row).rstrip() for row in zip(*cells, strict=True)]


def _reason(line: Line) -> str:
    return f"{line['status']}: {line['reason']}"
