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
