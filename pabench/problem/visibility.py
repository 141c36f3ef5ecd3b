"""Which keys a query row sees: a range, from the mask and the window."""

from __future__ import annotations

import numpy as np

from pabench.problem.dtypes import Array
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


def first_visible_key(problem: Problem, q_len: int, kv_len: int) -> int:
    """Return the first key that any row of a sequence sees; 0 for a sequence without rows."""
    first, last = visible_range(problem, q_len, kv_len)
    seen = first < last
    return int(first[seen].min()) if seen.any() else 0
