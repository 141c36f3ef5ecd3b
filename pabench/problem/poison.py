# SPDX-License-Identifier: Apache-2.0
"""What fills the slots of a cache that no query may read."""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np

from pabench.problem.dtypes import Array, DType, encode
from pabench.problem.problem import Problem

POISON_VALUES = {"zero": 0.0, "nan": math.nan, "inf": math.inf}
"""The others stand for the largest number of a type."""
FILL = 0xFF
"""All bits set are a NaN in each type of scale."""


@cache
def poison_value(poison: str, dtype: DType) -> Array:
    """Return the scalar (in storage form) that stands for ``poison``."""
    return encode(np.asarray(POISON_VALUES.get(poison, dtype.maximum)), dtype)


@lru_cache(maxsize=1024)
def poison_row(problem: Problem, poison: str, kind: str) -> Array:
    """Return what stands for ``poison`` in a row of K (``k``) or V (``v``), to be broadcast over rows."""
    stored = problem.kv_format
    if stored is None or stored.scale is None:
        return poison_value(poison, problem.kv_storage)
    dim = problem.head_dim if kind == "k" or problem.latent else problem.value_dim
    return stored.blank(POISON_VALUES.get(poison, stored.scale.maximum), dim)


def filled_up(problem: Problem, poison: str, keys: Array, values: Array) -> tuple[Array, Array]:
    """Return rows ``(tokens, heads, row_units)`` with ``FILL`` for what means nothing, if there is poison."""
    stored = problem.kv_format
    if stored is None or stored.scale is None or poison == "zero":
        return keys, values
    keys = np.where(stored.used(problem.head_dim), keys, np.uint8(FILL))
    if problem.latent:
        return keys, problem.values_of(keys)
    return keys, np.where(stored.used(problem.value_dim), values, np.uint8(FILL))
