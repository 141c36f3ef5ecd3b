"""Plain tables on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pabench.text import one_line


def text_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return aligned columns under the keys of the first row, numbers to the right, the last one ragged."""
    if not rows:
        return "none"
    names = list(rows[0])
    numeric = {name: any(_is_number(row[name]) for row in rows) for name in names}
    cells = [[_cell(row[name]) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = []
    for row in [names, *cells]:
        padded = [
            text.rjust(width) if numeric[name] else text.ljust(width)
            for text, width, name in zip(row, widths, names, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
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
