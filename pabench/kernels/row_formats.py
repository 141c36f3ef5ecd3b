# SPDX-License-Identifier: Apache-2.0
"""Formats of a cache as arguments of kernels that take any: see ``pab/cache_rows.cuh``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pabench.problem.formats import CacheFormat
from pabench.problem.problem import Problem

ROW_TYPES = ("one", "float32", "e4m3", "e5m2", "e2m1", "int8", "int4", "e8m0")
"""Types of numbers and scales, in the order of ``RowType``."""
NO_BLOCK = 2**30
"""Numbers that share a scale where it is that of the row."""
TABLE_HEAD_DIM = 128
"""The one head dimension of the static table's instances over rows, whose compilation takes seconds each."""
ROW_VECTOR = 4
"""Numbers that a lane takes at a time; loads are bytes."""
TILE_ROWS = ("int8-token-head", "int4-token-head", "e4m3-token-head", "nvfp4")
"""Formats that the tensor-core decode kernel takes, in the order of ``TileRows`` in ``pab/storage.cuh``."""


def takes_rows(problem: Problem) -> bool:
    """Whether the cache is one of rows for kernels: those of e4m3 have instances of their own."""
    return problem.kv_dtype not in (None, "e4m3")


def row_width(*sizes: int) -> int:
    """Return how many numbers a lane takes at a time of vectors of these sizes."""
    return math.gcd(ROW_VECTOR, *sizes)


def row_arguments(problem: Problem) -> tuple[Any, ...]:
    """Return the arguments of ``PAB_ROW_FORMAT_PARAMETERS``."""
    return (*_format(problem), *(_scales_at(problem, kind) for kind in "kv"))


def row_arguments_of(problem: Problem, kind: str) -> tuple[Any, ...]:
    """Return the same for rows of keys (``k``) or values (``v``) alone."""
    return (*_format(problem), _scales_at(problem, kind))


def _form(problem: Problem) -> CacheFormat:
    if problem.kv_format is None:
        raise TypeError("a cache that is stored as the queries are has no format")
    return problem.kv_format


def _scales_at(problem: Problem, kind: str) -> np.int32:
    dim = problem.head_dim if kind == "k" or problem.latent else problem.value_dim
    return np.int32(_form(problem).scales_at(dim))


def _format(problem: Problem) -> tuple[Any, ...]:
    """Type of the numbers, of the scales, and numbers that share one."""
    form = _form(problem)
    scale = "one" if form.scale is None else form.scale.name
    codes = (ROW_TYPES.index(form.numbers.name), ROW_TYPES.index(scale), form.block or NO_BLOCK)
    return tuple(np.int32(code) for code in codes)
