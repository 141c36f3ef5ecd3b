# SPDX-License-Identifier: Apache-2.0
"""The table of a grid on standard output: measured beside expected, and beside the best of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from pabench.activities.sweep.operation import KIND as OPERATION
from pabench.subjects.backends.own import OWN
from pabench.text import one_line, plural
from pabench.timing.cold import ROTATE

PIPE_COLUMNS = 200
PEERS_AMONG_OWN = ("torch-sdpa",)
"""Adapters of ours to other projects."""
SAME = (
    "model",
    "heads",
    "head_dim",
    "dtype",
    "kv_layout",
    "interleaved",
    "l2",
    "page_size",
    "lengths",
    "batch",
    "q_len",
    "shared_pages",
    "seed",
)

Line = Mapping[str, Any]


def print_grid_table(lines: Sequence[Line], hardware: Mapping[str, Any] | None) -> None:
    """Print one row a cell: time, bandwidth, fractions, prediction, best peer.

    Then operations, ceilings and a count.

    A device without events of its own has no measured figure; its rows show what is expected.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, emoji=False, width=PIPE_COLUMNS)
    table = Table(box=None, pad_edge=False)
    for title in ("model", "batch x lengths", "page", "backend"):
        table.add_column(title, no_wrap=True)
    for title in (
        "us\nmeasured",
        "GB/s\nmeasured",
        "of read\nceiling",
        "of\nfloor",
        "us\npredicted",
        "floor us\nexpected",
        "best peer us\nmeasured",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("status")
    cells = [line for line in lines if line.get("kind") != OPERATION]
    for line in cells:
        table.add_row(*(Text(one_line(text)) for text in _row(line, cells)))
    console.print(table)
    for line in lines:
        if line.get("kind") == OPERATION:
            console.print(Text(one_line(operation_text(line))), soft_wrap=True)
    if hardware:
        console.print(ceilings_text(hardware), markup=False)
    states = [line["status"] for line in cells]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    console.print(f"{plural(len(cells), 'cell')}: {counts or 'none'}", markup=False)


def operation_text(line: Line) -> str:
    """Return what an operation beside attention took, or what was counted, in one line."""
    head = str(line["label"])
    if line["status"] != "passed":
        return f"{head}: {line['status']}: {line['reason']}"
    if line.get("run_ns") is None:
        loads, stores = line["counted_load_sectors"], line["counted_store_sectors"]
        return f"{head}: {loads:,} sectors read, {stores:,} written by {line['counted_size']:,} (counted)"
    time, rate = median(line["run_ns"]) / 1e3, line["achieved_gbps"]
    part = f", {line['copy_fraction']:.3f} of copy" if line.get("copy_fraction") is not None else ""
    return f"{head}: {time:,.1f} us, {rate:,.0f} GB/s{part} (measured)"


def ceilings_text(hardware: Mapping[str, Any]) -> str:
    """Return the measured ceilings and the GPU's state in one line."""
    found = hardware["ceilings"]
    launch = found["launch_floor_ns"]
    parts = [
        f"measured ceilings: read {found['read_gbps']:,.0f} GB/s, copy {found['copy_gbps']:,.0f} GB/s",
        "empty launch not captured" if launch is None else f"empty launch {launch / 1e3:.2f} us",
    ]
    state = hardware.get("gpu") or {}
    clocks = [
        f"{state[key]:,.0f} {unit}"
        for key, unit in (("sm_mhz", "MHz"), ("power_w", "W"), ("temperature_c", "C"))
        if state.get(key) is not None
    ]
    return "; ".join([*parts, *([" ".join(clocks)] if clocks else [])])


def best_peer(line: Line, lines: Sequence[Line]) -> tuple[str, float] | None:
    """Return name and measured median of the fastest other project's backend on the same problem, or None."""
    times = [
        (time, str(other["backend"]))
        for other in lines
        if _is_peer(other) and _same(line, other) and (time := measured_ns(other)) is not None
    ]
    if not times or _is_peer(line):
        return None
    time, name = min(times)
    return name, time


def measured_ns(line: Line) -> float | None:
    """Return the median of the samples on the device's own clock, or None."""
    word = (line.get("provenance") or {}).get("run_ns")
    return median(line["run_ns"]) if line.get("run_ns") and word == "measured" else None


def _is_peer(line: Line) -> bool:
    return line["backend"] not in OWN or line["backend"] in PEERS_AMONG_OWN


def _same(one: Line, other: Line) -> bool:
    return all(one.get(key) == other.get(key) for key in SAME)


def _kind(line: Line) -> str:
    """What makes a call other than plain decode."""
    queries = f", {line['q_len']} queries" if line.get("q_len") else ""
    return queries + (f", {line['shared_pages']} pages shared" if line.get("shared_pages") else "")


def _row(line: Line, lines: Sequence[Line]) -> tuple[str, ...]:
    peer, time = best_peer(line, lines), measured_ns(line)
    layout = "" if line["kv_layout"] == "NHD" and not line["interleaved"] else f" {line['kv_layout']}"
    strided = " strided" if line["interleaved"] else ""
    policy = f" {line['l2']}" if line.get("l2") not in (None, ROTATE) else ""
    method = ["launches not captured"] if (line.get("timing") or {}).get("method") == "stream" else []
    doubts = "; ".join([*method, *(line.get("flags") or ())])
    reason = f": {line['reason']}" if line["reason"] else f" ({doubts})" if doubts else ""
    return (
        str(line.get("model") or line["heads"]),
        f"{line['batch']} x {line['lengths']}{_kind(line)}",
        f"{line['page_size']} {line['dtype']}{layout}{strided}{policy}",
        str(line["backend"]),
        _microseconds(time),
        "-" if time is None else f"{line['achieved_gbps']:,.0f}",
        _fraction(line.get("read_fraction")),
        _fraction(line.get("floor_fraction")),
        _microseconds(line.get("predicted_ns")),
        _microseconds(line.get("expected_floor_ns")),
        "-" if peer is None else f"{peer[0]} {peer[1] / 1e3:,.1f}",
        f"{line['status']}{reason}",
    )


def _microseconds(value_ns: float | None) -> str:
    return "-" if value_ns is None else f"{value_ns / 1e3:,.1f}"


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
