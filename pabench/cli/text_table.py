# SPDX-License-Identifier: Apache-2.0
"""Plain tables on standard output."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pabench.text import one_line

GAP = 2
NARROWEST = 12
"""Characters of a column whose text is wrapped, at least; twice that for a column that is kept."""


def screen_width() -> int | None:
    """Return the columns of the terminal, or ``COLUMNS``; None where standard output is neither."""
    if "COLUMNS" not in os.environ and not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def text_table(
    rows: Sequence[Mapping[str, Any]],
    *,
    width: int | None = None,
    keep: Sequence[str] = (),
    elsewhere: str = "the report",
) -> str:
    """Return aligned columns under the keys of the first row, numbers to the right, the last one ragged.

    With ``width`` no line is longer, as far as that goes: columns of text are wrapped, and the last columns
    for which there is no room even then are left out, and named below.

    Args:
        rows: one mapping a row, all with the keys of the first.
        width: of the screen, in characters; None for any.
        keep: columns that are not left out.
        elsewhere: who has what is left out.
    """
    if not rows:
        return "none"
    names = list(rows[0])
    numeric = {name: any(_is_number(row[name]) for row in rows) for name in names}
    columns = {name: [name, *(_cell(row[name]) for row in rows)] for name in names}
    widths = {name: max(map(len, column)) for name, column in columns.items()}
    left_out: list[str] = []
    # the first column names the row and is never wrapped
    least = {
        name: wide
        if numeric[name] or name == names[0]
        else min(wide, max(NARROWEST * (1 + (name in keep)), _longest_word(columns[name])))
        for name, wide in widths.items()
    }
    while width is not None and sum(least[name] + GAP for name in widths) - GAP > width:
        droppable = [name for name in list(widths)[1:] if name not in keep]
        if not droppable:
            break
        left_out.insert(0, droppable[-1])
        del widths[droppable[-1]]
    if width is not None:
        _narrow(widths, least, width)
    lines = []
    for at in range(len(rows) + 1):
        cells = {name: _lines(columns[name][at], wide) for name, wide in widths.items()}
        for line in range(max(map(len, cells.values()))):
            padded = []
            for name, wide in widths.items():
                text = cells[name][line] if line < len(cells[name]) else ""
                padded.append(text.rjust(wide) if numeric[name] else text.ljust(wide))
            lines.append((" " * GAP).join(padded).rstrip())
    if left_out:
        lines += _lines(f"no room for: {', '.join(left_out)}; {elsewhere} has all", width or 0)
    return "\n".join(lines)


def _narrow(widths: dict[str, int], least: Mapping[str, int], width: int) -> None:
    """Take what is more than the screen has from the widest columns, a character at a time."""
    while sum(widths.values()) + GAP * (len(widths) - 1) > width:
        widest = max(widths, key=lambda name: (widths[name] > least[name]) * widths[name])
        if widths[widest] <= least[widest]:
            return
        widths[widest] -= 1


def _longest_word(column: Sequence[str]) -> int:
    return min(max((len(word) for text in column for word in text.split()), default=0), 2 * NARROWEST)


def _lines(text: str, wide: int) -> list[str]:
    return [text] if len(text) <= wide else textwrap.wrap(text, wide, break_on_hyphens=False)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ",".join(f"{key}={item:g}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else one_line(str(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
