# SPDX-License-Identifier: Apache-2.0
"""Which keys a query row sees: a range, from the causal flag and the window; with other masks, any set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.masks import MASKS, Rows, Value
from pabench.problem.masks.mask import Sees
from pabench.problem.problem import Problem


def visible_range(problem: Problem, q_len: int, kv_len: int) -> tuple[Array, Array]:
    """Return the keys ``first..last-1`` that each of ``q_len`` rows sees, two int64 arrays ``(q_len,)``.

    Row i stands at position ``kv_len - q_len + i``: masks align at the bottom right.  A causal row sees the
    keys up to its position, any other all of them; a window takes away those ``window`` or more positions
    back.  A row that sees nothing has both ends alike.
    """
    position = kv_len - q_len + np.arange(q_len, dtype=np.int64)
    last = np.clip(position + 1, 0, kv_len) if problem.causal else np.full(q_len, kv_len, dtype=np.int64)
    first = np.zeros(q_len, dtype=np.int64)
    if problem.window is not None:
        first = np.maximum(first, position - problem.window + 1)
    return np.minimum(first, last), last


def seen_keys(case: Case, sequence: int) -> Array:
    """Return which keys the rows of one sequence see, bool ``(q_len, kv_len)``, all masks applied."""
    problem, batch = case.problem, case.batch
    q_len, kv_len = batch.query_lens[sequence], batch.kv_lens[sequence]
    rows = Rows(sequence=sequence, q_len=q_len, kv_len=kv_len, page_size=problem.page_size)
    return apply_masks(problem, rows, [(MASKS[name].sees, MASKS[name].widens, v) for name, v in case.masks])


def apply_masks(problem: Problem, rows: Rows, masks: Sequence[tuple[Sees, bool, Value]]) -> Array:
    """Return which keys rows see, from the causal flag on; the window comes after what may show more."""
    everything = np.ones((rows.q_len, rows.kv_len), bool)
    seen: Array = everything & (rows.key <= rows.position) if problem.causal else everything
    for sees, widens, value in masks:
        seen = sees(seen, rows, value) if widens else seen
    if problem.window is not None:
        seen = seen & (rows.key > rows.position - problem.window)
    for sees, widens, value in masks:
        seen = seen if widens else sees(seen, rows, value)
    return seen


def unseen_tokens(case: Case, sequence: int) -> Array:
    """Return which tokens of a sequence no row of it sees though it has rows, bool ``(kv_len,)``.

    Without masks these are those that slid out of the window of every row.
    """
    batch = case.batch
    q_len, kv_len = batch.query_lens[sequence], batch.kv_lens[sequence]
    if case.masks:
        unseen = ~np.asarray(seen_keys(case, sequence).any(0)) if q_len else np.zeros(kv_len, bool)
    else:
        unseen = np.arange(kv_len) < first_visible_key(case.problem, q_len, kv_len)
    return unseen


def first_visible_key(problem: Problem, q_len: int, kv_len: int) -> int:
    """Return the first key that any row of a sequence sees; 0 for a sequence without rows."""
    first, last = visible_range(problem, q_len, kv_len)
    seen = first < last
    return int(first[seen].min()) if seen.any() else 0
