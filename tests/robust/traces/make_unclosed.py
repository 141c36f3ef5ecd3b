"""A ShareGPT list whose first item never closes: reading it must cost no more than its size."""

from __future__ import annotations

from pathlib import Path


def write_unclosed(path: Path, *, numbers: int) -> Path:
    """Write ``2 * numbers`` bytes and two brackets to ``path`` and return it."""
    path.write_text("[[" + "1," * numbers)
    return path
