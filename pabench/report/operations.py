# SPDX-License-Identifier: Apache-2.0
"""Operations beside attention as a table: what each took, and what of it a copy of memory reaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from pabench.report.sections import Section
from pabench.report.source import Line
from pabench.report.words import DASH, TIMES, digits, number, percent, whole


def _rows(lines: Sequence[Line]) -> Iterator[tuple[str, ...]]:
    for line in lines:
        data, reason = line.data, line.data.get("reason")
        times = data.get("run_ns") if line.state == "passed" else None
        yield (
            str(data["label"]),
            str(data["device"]),
            f"{line.state}: {reason}" if reason else line.state,
            DASH if not times else _time(median(times)),
            digits(number(data.get("achieved_gbps"))),
            percent(number(data.get("copy_fraction"))),
            _time(number(data.get("predicted_ns"))),
            _count(data, "moved_bytes"),
            _count(data, "counted_size"),
            _count(data, "counted_load_sectors"),
            _count(data, "counted_store_sectors"),
        )


def _count(data: dict[str, Any], name: str) -> str:
    return DASH if data.get(name) is None else whole(data[name])


def _time(value_ns: float | None) -> str:
    if value_ns is None:
        return DASH
    factor, unit = next(((f, u) for f, u in TIMES if value_ns >= f), TIMES[-1])
    return f"{digits(value_ns / factor)} {unit}"


OPERATIONS = Section(
    title="Operations beside attention",
    columns=(
        *("Operation", "Device", "Result", "Median (measured)", "GB/s (measured)"),
        *("of the copy ceiling (measured)", "Predicted (modelled)", "Bytes to move (counted)"),
        *("Counted over", "32-byte sectors read (counted)", "Sectors written (counted)"),
    ),
    rows=_rows,
    about="Our own kernels out of a cold cache, judged by what they left. Bytes to move are the least that "
    "the operation can read and write; a copy of memory on the same GPU is the ceiling. Sectors are those of "
    "a part.",
)
