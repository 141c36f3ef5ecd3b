"""Columns of a request as a device takes them, and what the kernels of all allocators refuse in one entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from pabench.problem.checks import INT32_MAX
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.base import PoolShape


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


def growth_breaks(
    sequence: int, count: int, lengths: Array, shape: PoolShape
) -> Literal["value", "row"] | None:
    """Return which rule an entry of a growth breaks: that of values, that of the row's length, or None.

    A sequence that is not live a kernel would start; one below 0 is no request.

    Args:
        sequence: its index.
        count: tokens to add.
        lengths: int64 ``(max_seqs,)``, -1 where a sequence is not live.
        shape: of the pool.
    """
    if sequence < 0:
        return None
    if sequence >= shape.max_seqs or count < 0:
        return "value"
    length = max(0, int(lengths[sequence])) + count
    outgrows = length > INT32_MAX or pages_needed(length, shape.page_size) > shape.max_pages_per_seq
    return "row" if outgrows else None
