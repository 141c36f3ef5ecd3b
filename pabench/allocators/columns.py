"""Columns of a request as a device takes them, from what a caller gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pabench.problem.checks import INT32_MAX


def columns_of(*given: Any) -> list[list[int]] | None:
    """Return columns of a request as the device can be given them, or None: int32, as long as one another."""
    columns: list[list[int]] = []
    for column in given:
        found = column.tolist() if isinstance(column, np.ndarray) else column
        found = list(found) if isinstance(found, Sequence) else [found] * len(columns[0]) if columns else None
        if found is None or not all(isinstance(one, int) and abs(one) <= INT32_MAX for one in found):
            return None
        columns.append([int(one) for one in found])
    return columns if len({len(column) for column in columns}) == 1 else None
