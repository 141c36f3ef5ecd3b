# SPDX-License-Identifier: Apache-2.0
"""Masks that say where rows stand: a causal flag a sequence, and keys spread over ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.batch import Batch
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.problem.masks.mask import Choose, Mask, Rows, per_sequence
from pabench.problem.problem import Problem

FLAGS, PARALLEL = "causal-flags", "context-parallel"


def _read_flags(value: Any, problem: Problem, batch: Batch) -> tuple[bool, ...]:
    flags = per_sequence(FLAGS, value, batch)
    for i, flag in enumerate(flags):
        if not isinstance(flag, bool):
            raise InvalidCase(f"{FLAGS}[{i}]", flag, "must be true or false")
    return tuple(flags)


def _causal(rows: Rows) -> Array:
    return rows.key <= rows.position


def _flagged(rows: Rows, flag: bool) -> Array:
    return _causal(rows) if flag else np.ones((rows.q_len, rows.kv_len), bool)


CAUSAL_FLAGS = Mask(
    name=FLAGS,
    clause="F10",
    about="Each sequence of a batch has a causal flag of its own.",
    read=_read_flags,
    sees=lambda seen, rows, value: _flagged(rows, value[rows.sequence]),
    admits=lambda seen, position, key, rows, value: key <= position or not value[rows.sequence],
    draw=lambda choose, problem, batch: tuple(choose.among((True, False)) for _ in batch.kv_lens),
    neutral=lambda problem, batch: (problem.causal,) * batch.num_seqs,
    mistakes={
        "the causal flag of sequence 0": lambda seen, rows, value: _flagged(rows, value[0]),
        "a causal mask whatever its flag": lambda seen, rows, value: _causal(rows),
        "no causal mask whatever its flag": lambda seen, rows, value: _flagged(rows, False),
    },
    widens=True,
    several_rows=True,
)


def _read_ranks(value: Any, problem: Problem, batch: Batch) -> tuple[int, int, tuple[int, ...]]:
    if not isinstance(value, list | tuple) or len(value) != 3:
        rule = "must be the number of ranks, this rank, and the whole length of each sequence"
        raise InvalidCase(PARALLEL, value, rule)
    world = whole_number(f"{PARALLEL}[0]", value[0], low=1)
    rank = whole_number(f"{PARALLEL}[1]", value[1], low=0, high=world - 1)
    wholes = per_sequence(f"{PARALLEL}[2]", value[2], batch)
    for i, (whole, kv_len) in enumerate(zip(wholes, batch.kv_lens, strict=True)):
        wholes[i] = whole_number(f"{PARALLEL}[2][{i}]", whole, low=0)
        here = max(0, -(-(wholes[i] - rank) // world))
        if here != kv_len:
            rule = f"must be {here}: rank {rank} of {world} holds so many of {wholes[i]} tokens"
            raise InvalidCase(f"kv_lens[{i}]", kv_len, rule)
    return world, rank, tuple(wholes)


def _draw_ranks(choose: Choose, problem: Problem, batch: Batch) -> tuple[int, int, tuple[int, ...]]:
    world = choose.among((2, 3, 4, 8))
    rank = choose.whole(0, world - 1)
    wholes = []
    for kv_len in batch.kv_lens:
        most = kv_len * world + rank
        wholes.append(choose.whole(max(0, most - world + 1), most))
    return world, rank, tuple(wholes)


def _whole_positions(rows: Rows, value: Any) -> Array:
    world, rank, wholes = value
    row = wholes[rows.sequence] - rows.q_len + np.arange(rows.q_len, dtype=np.int64)[:, None]
    seen: Array = rows.key * world + rank <= row
    return seen


CONTEXT_PARALLEL = Mask(
    name=PARALLEL,
    clause="F11",
    about="A rank holds every r-th token; the causal mask goes by positions in the whole sequence.",
    read=_read_ranks,
    sees=lambda seen, rows, value: _whole_positions(rows, value),
    admits=lambda seen, position, key, rows, value: (
        key * value[0] + value[1] <= position - rows.kv_len + value[2][rows.sequence]
    ),
    draw=_draw_ranks,
    neutral=lambda problem, batch: (1, 0, batch.kv_lens),
    mistakes={
        "a causal mask by positions among the keys of its rank": lambda seen, rows, value: _causal(rows),
        "a causal mask as on rank 0": lambda seen, rows, value: _whole_positions(
            rows, (value[0], 0, value[2])
        ),
        "no causal mask": lambda seen, rows, value: _flagged(rows, False),
    },
    widens=True,
    several_rows=True,
    fields={"causal": True},
    without=frozenset({"alibi", "window", "non-causal"}),
)

ROWS: tuple[Mask, ...] = (CAUSAL_FLAGS, CONTEXT_PARALLEL)
