"""Plain tables on standard output."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pabench.text import one_line

GAP = 2


def screen_width() -> int | None:
    """Return the columns of the terminal, or ``COLUMNS``; None where standard output is neither."""
    if "COLUMNS" not in os.environ and not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def text_table(rows: Sequence[Mapping[str, Any]], *, width: int | None = None) -> str:
    """Return aligned columns under the keys of the first row, numbers to the right, the last one ragged.

    With ``width`` the last columns that do not fit are left out, and named below.
    """
    if not rows:
        return "none"
    names = list(rows[0])
    numeric = {name: any(_is_number(row[name]) for row in rows) for name in names}
    cells = [[_cell(row[name]) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    kept = len(names)
    while width is not None and kept > 1 and sum(widths[:kept]) + GAP * (kept - 1) > width:
        kept -= 1
    names, left_out = names[:kept], names[kept:]
    lines = []
    for row in [names, *cells]:
        padded = [
            text.rjust(wide) if numeric[name] else text.ljust(wide)
            for text, wide, name in zip(row[:kept], widths, names, strict=False)
        ]
        lines.append("  ".join(padded).rstrip())
    if left_out:
        lines.append(f"no room for: {', '.join(left_out)}; the report has all")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ",".join(f"{key}={item:g}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return "+".join(str(item) for item in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else one_line(str(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
