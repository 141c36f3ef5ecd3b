# SPDX-License-Identifier: Apache-2.0
"""Vectors of a batch: checked, ranked, spread out, without a loop over their entries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import INT32_MAX, whole_number
from pabench.problem.dtypes import Array


def index_vector(sequences: Sequence[int] | Array, max_seqs: int) -> Array:
    """Return sequence indices as int64 ``(n,)``.

    Raises:
        InvalidCase: an index out of range, named twice, or no whole number.
    """
    if isinstance(sequences, np.ndarray) and sequences.dtype == np.int64 and sequences.ndim == 1:
        # in order is the common case, and the ends of what is in order bound it
        last = sequences.size - 1
        ordered = last >= 0 and np.count_nonzero(sequences[1:] > sequences[:-1]) == last
        if ordered and sequences[0] >= 0 and sequences[last] < max_seqs:
            return sequences
    named = _vector("sequence", sequences, high=max_seqs - 1)
    by_index = np.sort(named)
    twice = by_index[1:][by_index[1:] == by_index[:-1]]
    if twice.size:
        raise InvalidCase("sequence", int(twice[0]), "must be named once")
    return named


def count_vector(tokens: int | Sequence[int] | Array, size: int) -> Array | None:
    """Return token counts as int64 ``(size,)``, or None when each is 1.

    Raises:
        InvalidCase: a count below 0 or no whole number, or not one a sequence.
    """
    if not isinstance(tokens, Sequence | np.ndarray) or (isinstance(tokens, np.ndarray) and not tokens.ndim):
        count = whole_number("tokens", tokens.item() if isinstance(tokens, np.ndarray) else tokens, low=0)
        return None if count == 1 else np.full(size, count, np.int64)
    counts = _vector("tokens", tokens, high=INT32_MAX)
    if counts.size != size:
        raise InvalidCase("tokens", counts.size, f"must have one entry a sequence, {size}")
    return counts


def within(counts: Array) -> Array:
    """Return 0, 1, .. ``counts[i] - 1`` for each ``i``, one behind the other, int64."""
    ends = np.cumsum(counts)
    spread: Array = np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - counts, counts)
    return spread


def ranks(values: Array) -> Array:
    """Return how many equal values stand before each, int64."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    found = np.empty(values.size, np.int64)
    found[order] = np.arange(values.size) - np.searchsorted(ordered, ordered)
    return found


def _vector(field: str, values: Sequence[int] | Array, *, high: int) -> Array:
    """Whole numbers from 0 to ``high`` as an int64 vector."""
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu":
        # as unsigned numbers, those below zero are the largest
        vector = values.astype(np.int64, copy=False)
        if vector.size == 0 or np.maximum.reduce(vector.view(np.uint64)) <= high:
            return vector
    items = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(items, Sequence):
        raise InvalidCase(field, items, "must be a list of whole numbers")
    return np.array([whole_number(field, item, low=0, high=high) for item in items], np.int64)
