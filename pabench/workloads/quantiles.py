# SPDX-License-Identifier: Apache-2.0
"""Length families from the shipped quantile tables of public request traces.

A table holds the 0th to 100th percentile of each column; a length is drawn by the inverse of the
cumulative distribution, linear between neighbouring percentiles.  ``suites/lengths/README.md`` says where the
tables come from.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from pabench.errors import UsageError
from pabench.problem.dtypes import Array
from pabench.problem.lengths import LengthFamily, LengthRequest
from pabench.resources import resource_dir

QUANTILES = 101

TABLES = {
    "azure-conv": "Azure LLM inference 2023, conversation",
    "azure-code": "Azure LLM inference 2023, code completion",
    "mooncake-conversation": "Mooncake 2025, conversation",
    "mooncake-synthetic": "Mooncake 2025, synthetic long context",
    "arxiv-summarization": "arXiv summarization, at most 4,096 tokens",
}

COLUMNS = {
    "": ("total_tokens", "prompt and output together"),
    "-prompt": ("prompt_tokens", "prompt only"),
    "-output": ("output_tokens", "output only"),
}
"""Suffix of the family's name, column of the table, and what it means."""


def empirical_families() -> dict[str, LengthFamily]:
    """Return the families of all shipped tables: ``azure-conv``, ``azure-conv-prompt``, ...

    The tables are read when a length is drawn, not here.
    """
    return {
        table + suffix: LengthFamily(
            name=table + suffix,
            about=f"{about}: {meaning}",
            defaults={},
            sampler=_QuantileSampler(table, column),
        )
        for table, about in TABLES.items()
        for suffix, (column, meaning) in COLUMNS.items()
    }


class _QuantileSampler:
    def __init__(self, table: str, column: str) -> None:
        self.table, self.column = table, column

    def __call__(self, parameters: Mapping[str, float], request: LengthRequest) -> Array:
        quantiles = read_quantiles(resource_dir("suites") / "lengths" / f"{self.table}.csv", self.column)
        at = request.rng.random(request.batch) * (QUANTILES - 1)
        return np.asarray(np.interp(at, np.arange(QUANTILES), quantiles))


@cache
def read_quantiles(path: Path, column: str) -> Array:
    """Return one column of a quantile table, float64 ``(101,)`` in tokens.

    Raises:
        UsageError: the file cannot be read, lacks the column, has not the percentiles 0 to 100 in order, or
            holds something else than non-negative numbers that do not decrease.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"quantile table {path}: cannot be read: {error}") from error
    if not rows or column not in rows[0] or "percentile" not in rows[0]:
        raise UsageError(f"quantile table {path}: has no rows, or no columns 'percentile' and {column!r}")
    try:
        percentiles = [float(row["percentile"]) for row in rows]
        values = np.asarray([float(row[column]) for row in rows])
    except (TypeError, ValueError) as error:
        raise UsageError(f"quantile table {path}: column {column!r} must hold numbers: {error}") from None
    if percentiles != list(range(QUANTILES)):
        raise UsageError(f"quantile table {path}: must have the percentiles 0 to 100 in order")
    # written so that NaN fails too
    if not (np.all(np.diff(values) >= 0) and values[0] >= 0 and np.isfinite(values[-1])):
        raise UsageError(f"quantile table {path}: column {column!r} must be >= 0 and must not decrease")
    values.flags.writeable = False
    return values
