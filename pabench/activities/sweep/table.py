"""The short table of results on standard output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pabench.text import one_line

MAX_ROWS = 40
"""Rows on the screen; the report and the journal have all."""
PIPE_COLUMNS = 150
"""Width when standard output is no terminal, so that nothing is cut."""

Line = Mapping[str, Any]

_ALWAYS: tuple[tuple[str, Callable[[Line], str]], ...] = (
    ("page", lambda line: str(line["page_size"])),
    ("lengths", lambda line: str(line["lengths"])),
    ("batch", lambda line: str(line["batch"])),
)
_IF_VARIED = ("backend", "heads", "dtype", "kv_layout", "interleaved")


def print_table(lines: Sequence[Line]) -> None:
    """Print one row a cell, with the provenance of each figure in its column's head, and a line of counts."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, emoji=False, width=PIPE_COLUMNS)
    axes = [*_ALWAYS]
    for name in _IF_VARIED:
        if len({line[name] for line in lines}) > 1:
            axes.append((name, lambda line, name=name: str(line[name])))  # type: ignore[misc]
    gpu = lines[0]["modelled_gpu"] if lines else "GPU"
    table = Table(box=None, pad_edge=False)
    for title, _ in axes:
        table.add_column(title, no_wrap=True, justify="left" if title == "lengths" else "right")
    for title in ("pages\ncounted", "waste %\ncounted", "gain\ncounted", "table bytes\ncounted"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column(f"tokens/s, 1 layer\nmodelled, {gpu}", justify="right", no_wrap=True)
    table.add_column("check\nerr/T", justify="right", no_wrap=True)
    table.add_column("status")
    for line in lines[:MAX_ROWS]:
        cells = [show(line) for _, show in axes]
        table.add_row(*map(_plain, [*cells, *_figures(line), _status(line)]))
    console.print(table)
    if len(lines) > MAX_ROWS:
        console.print(f"... and {len(lines) - MAX_ROWS} more cells in the report", markup=False)
    states = [line["status"] for line in lines]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    console.print(f"{len(lines)} cells: {counts}", markup=False)


def _figures(line: Line) -> tuple[str, ...]:
    check, tokens = line["check"], line["modelled_tokens_per_s"]
    return (
        f"{line['num_pages']:,}",
        f"{100 * line['internal_fragmentation']:.2f}",
        f"{line['efficiency_gain']:.3f}",
        f"{line['block_table_bytes']:,}",
        "-" if tokens is None else f"{tokens:,.0f}",
        "-" if check is None or check["max_ratio"] is None else f"{float(check['max_ratio']):.2f}",
    )


def _status(line: Line) -> str:
    return str(line["status"]) + (f": {line['reason']}" if line["reason"] else "")


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(one_line(text))
