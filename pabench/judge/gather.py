# SPDX-License-Identifier: Apache-2.0
"""Reads stored tokens through the block table and widens them to float64, exactly.

The judge's own way to the data: page ids have 64 bits, so that none can wrap.  It shares no code with what
writes the cache nor with any backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.judge.cached import row_numbers, to_float64
from pabench.problem.dtypes import Array
from pabench.problem.tensors import Tensors


def gather_tokens(
    tensors: Tensors, sequence: int, kind: str, start: int, stop: int, *, head: int | None = None
) -> Array:
    """Return keys (``kind="k"``) or values (``"v"``), scaled, of tokens ``start..stop-1`` of one sequence.

    Args:
        tensors: the case's arrays; only the pages of these tokens are touched.
        sequence: row of the block table.
        kind: ``k`` or ``v``.
        start: first logical token.
        stop: one past the last logical token; the table must cover it.
        head: one KV head, or all of them.

    Returns:
        float64 ``(stop - start, num_kv_heads, head_dim)``, or ``(stop - start, head_dim)`` with ``head``; of
        values ``head_dim_v``.

    Raises:
        InvalidCase: the table is too narrow or names a page outside the pool.
    """
    page_size = tensors.case.problem.page_size
    row = tensors.layout.block_table[sequence]
    need = -(-stop // page_size)
    if need > row.size:
        rule = f"token {stop - 1} of sequence {sequence} needs {need} pages of {page_size}"
        raise InvalidCase("block_table width", int(row.size), rule)
    return gather_pages(tensors, sequence, row[:need].tolist(), kind, start, stop, head=head)


def gather_pages(
    tensors: Tensors,
    sequence: int,
    pages: Sequence[int],
    kind: str,
    start: int,
    stop: int,
    *,
    head: int | None = None,
) -> Array:
    """Like ``gather_tokens`` with the physical pages given, in logical order."""
    pool, problem = tensors.pool, tensors.case.problem
    view: Any = pool.k if kind == "k" else pool.v
    slots = view if pool.kv_layout == "NHD" else view.swapaxes(1, 2)
    if head is not None:
        slots = slots[:, :, head : head + 1]
    logical, offset = np.divmod(np.arange(start, max(start, stop)), problem.page_size)
    page, num_pages = np.asarray(pages, dtype=np.int64)[logical], int(view.shape[0])
    outside = np.flatnonzero((page < 0) | (page >= num_pages))
    if outside.size:
        at = int(outside[0])
        rule = f"logical page {logical[at]} must be a page of the pool, 0 to {num_pages - 1}"
        raise InvalidCase("page id", int(page[at]), rule)
    stored = slots[page, offset]
    numbers = row_numbers(problem, stored, kind)
    if problem.kv_dtype is not None:
        by_head = np.asarray(tensors.case.scales_of(kind, sequence))
        numbers *= (by_head if head is None else by_head[head : head + 1])[:, None]
    return numbers if head is None else numbers[:, 0]


def query_numbers(tensors: Tensors) -> Array:
    """Return the queries, scaled, float64 ``(num_query_tokens, num_qo_heads, head_dim)``."""
    problem, indptr = tensors.case.problem, tensors.qo_indptr.tolist()
    found = to_float64(tensors.q, problem.q_storage)
    if problem.q_dtype is not None:
        for sequence, (first, end) in enumerate(pairwise(indptr)):
            by_head = np.repeat(tensors.case.scales_of("q", sequence), problem.group_size)
            found[first:end] *= by_head[:, None]
    return found


__all__ = ["gather_pages", "gather_tokens", "query_numbers", "to_float64"]
