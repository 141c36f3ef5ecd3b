"""Benchmark and conformance suite for paged attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

__version__ = "0.1.0"


def read(*runs: str | Path) -> pd.DataFrame:
    """Read run directories into one pandas DataFrame, a row a record; see ``analysis/frame.py``."""
    # pandas is heavy, and most of what imports pabench has no use for it
    from pabench.analysis.frame import read as read_frame

    return read_frame(*runs)


def compare(base: str | Path, new: str | Path, *, threshold: float = 0.02) -> pd.DataFrame:
    """Compare two run directories, a row a verdict or figure; see ``comparison/compare.py``.

    Args:
        base: the run that is held to.
        new: the run that is judged.
        threshold: relative difference below which times count as the same.

    Returns:
        Columns ``part, label, subject, device, figure, base, new, ratio, low, high, change, reason,
        accepted, id``; ``attrs["exit_code"]`` is that of ``pabench compare``.
    """
    from pabench.comparison.compare import compare as compare_paths

    return compare_paths(base, new, threshold=threshold)
