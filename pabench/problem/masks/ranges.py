# SPDX-License-Identifier: Apache-2.0
"""Masks by distance: a window to either side, chunks, and what comes before a late first token."""

from __future__ import annotations

from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.batch import Batch
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.problem.masks.mask import Mask, Rows, per_sequence
from pabench.problem.problem import Problem

STARTS = "starts-in-page"
EDGES = (1, 2, 3, 5, 8, 16, 17, 31, 32, 33, 64, 100)


def _read_sides(value: Any, problem: Problem, batch: Batch) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise InvalidCase("two-sided-window", value, "must be two numbers, for the left and the right")
    left, right = (whole_number(f"two-sided-window[{i}]", side, low=1) for i, side in enumerate(value))
    return left, right


TWO_SIDED = Mask(
    name="two-sided-window",
    clause="F8",
    about="A row sees keys at less than one distance to its left, and at less than another to its right.",
    read=_read_sides,
    sees=lambda seen, rows, value: (
        seen & (rows.key > rows.position - value[0]) & (rows.key < rows.position + value[1])
    ),
    admits=lambda seen, position, key, rows, value: seen and -value[0] < key - position < value[1],
    draw=lambda choose, problem, batch: (choose.among(EDGES), choose.among(EDGES)),
    neutral=lambda problem, batch: (_everything(batch), _everything(batch)),
    mistakes={
        "the right side of its window ignored": lambda seen, rows, value: (
            seen & (rows.key > rows.position - value[0])
        ),
        "the left side of its window ignored": lambda seen, rows, value: (
            seen & (rows.key < rows.position + value[1])
        ),
        "a causal mask in place of the right side of its window": lambda seen, rows, value: (
            seen & (rows.key > rows.position - value[0]) & (rows.key <= rows.position)
        ),
        "the window one key wider on the right": lambda seen, rows, value: (
            seen & (rows.key > rows.position - value[0]) & (rows.key <= rows.position + value[1])
        ),
        "the sides of its window swapped": lambda seen, rows, value: (
            seen & (rows.key > rows.position - value[1]) & (rows.key < rows.position + value[0])
        ),
    },
    several_rows=True,
    fields={"causal": False},
)

CHUNKED = Mask(
    name="chunked-attention",
    clause="F9",
    about="A row sees keys of its own chunk of positions alone.",
    read=lambda value, problem, batch: whole_number("chunked-attention", value, low=1),
    sees=lambda seen, rows, value: seen & (rows.key // value == rows.position // value),
    admits=lambda seen, position, key, rows, value: seen and key // value == position // value,
    draw=lambda choose, problem, batch: choose.among(EDGES),
    neutral=lambda problem, batch: _everything(batch),
    mistakes={
        "a sliding window in place of chunks": lambda seen, rows, value: (
            seen & (rows.key > rows.position - value)
        ),
        "no chunks": lambda seen, rows, value: seen,
        "chunks counted from the last key": lambda seen, rows, value: (
            seen & ((rows.kv_len - 1 - rows.key) // value == (rows.kv_len - 1 - rows.position) // value)
        ),
    },
)


def _read_starts(value: Any, problem: Problem, batch: Batch) -> tuple[int, ...]:
    found = []
    for i, (start, kv_len) in enumerate(zip(per_sequence(STARTS, value, batch), batch.kv_lens, strict=True)):
        number = whole_number(f"{STARTS}[{i}]", start, low=0, high=problem.page_size - 1)
        if number > kv_len:
            raise InvalidCase(f"{STARTS}[{i}]", number, f"must be at most kv_lens[{i}] = {kv_len}")
        found.append(number)
    return tuple(found)


def _from_the_page(seen: Array, rows: Rows, value: Any) -> Array:
    start = value[rows.sequence]
    found = np.zeros_like(seen)
    found[:, : rows.kv_len - start] = seen[:, start:]
    return found


LATE_STARTS = Mask(
    name=STARTS,
    clause="F21",
    about="A sequence begins within its first page: the slots before its first token are no keys of it.",
    read=_read_starts,
    sees=lambda seen, rows, value: seen & (rows.key >= value[rows.sequence]),
    admits=lambda seen, position, key, rows, value: seen and key >= value[rows.sequence],
    draw=lambda choose, problem, batch: tuple(
        choose.whole(0, min(kv_len, problem.page_size - 1)) for kv_len in batch.kv_lens
    ),
    neutral=lambda problem, batch: (0,) * batch.num_seqs,
    mistakes={
        "its tokens counted from the beginning of their first page": _from_the_page,
        "the slots before its first token taken for keys": lambda seen, rows, value: seen,
    },
)


def _everything(batch: Batch) -> int:
    return max(batch.kv_lens) + max(batch.query_lens) + 1


ROWS: tuple[Mask, ...] = (TWO_SIDED, CHUNKED, LATE_STARTS)
