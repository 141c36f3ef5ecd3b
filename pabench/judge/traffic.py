# SPDX-License-Identifier: Apache-2.0
"""Bytes that an attention step must move and operations it must do: the floor, not what a kernel does.

Closed forms per layer, with ``H_q``, ``H_kv`` heads, keys of d and values of d_v numbers, s bytes a number
and L keys: attention reads ``H_kv (d + d_v) s L`` bytes of cache (``H_kv d s L`` where values lie in the
keys) and does ``2 H_q (d + d_v) L`` operations (2 for each product and sum of q.k, 2 of p.v).  Tokens that
several sequences share through their block tables are read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pabench.problem.batch import Batch
from pabench.problem.layout import PageLayout, pages_needed
from pabench.problem.problem import Problem
from pabench.problem.visibility import visible_range

TABLE_ENTRY_BYTES = 4
LENGTH_BYTES = 4
LSE_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes and operations of one step of one layer.

    Attributes:
        kv_bytes: distinct cached tokens that a window leaves, K and V.
        kv_page_bytes: the same when whole pages are read, unused slots included.
        table_bytes: block-table entries in use and ``kv_lens``, int32.
        q_bytes: queries.
        out_bytes: outputs.
        lse_bytes: float32 LSE.
        flops: multiplications and additions of the two products.
        tokens: distinct cached tokens.
        pages: distinct pages.
    """

    kv_bytes: int
    kv_page_bytes: int
    table_bytes: int
    q_bytes: int
    out_bytes: int
    lse_bytes: int
    flops: int
    tokens: int
    pages: int

    @property
    def total_bytes(self) -> int:
        """Everything read and written once, of the cache only the slots in use."""
        return self.kv_bytes + self.table_bytes + self.q_bytes + self.out_bytes + self.lse_bytes

    @property
    def intensity(self) -> float:
        """Operations per byte of cache; 0 when no key is read.  For 16-bit types it is the group size."""
        return self.flops / self.kv_bytes if self.kv_bytes else 0.0


def decode_traffic(problem: Problem, kv_lens: Sequence[int], *, layout: PageLayout | None = None) -> Traffic:
    """Return the traffic of one query token per sequence; see ``batch_traffic``."""
    return batch_traffic(problem, Batch(kv_lens=tuple(kv_lens)), layout=layout)


def batch_traffic(problem: Problem, batch: Batch, *, layout: PageLayout | None = None) -> Traffic:
    """Return the traffic of the query tokens of ``batch`` over its cached tokens.

    Args:
        problem: heads, head dimension, page size, storage type.
        batch: query and cached tokens of each sequence.
        layout: block table; with it, pages that sequences share count once.  Without it nothing is shared.

    Raises:
        InvalidCase: a length is not a token count, or the table does not cover the lengths.
    """
    lengths = batch.kv_lens
    firsts = [
        0 if problem.window is None else max(0, kv_len - max(0, q_len - 1) - problem.window)
        for q_len, kv_len in zip(batch.query_lens, lengths, strict=True)
    ]
    tokens = sum(lengths) - sum(firsts)
    entries = sum(pages_needed(n, problem.page_size) for n in lengths)
    pages = entries = entries - sum(first // problem.page_size for first in firsts)
    if layout is not None:
        tokens, pages = _distinct(problem.page_size, lengths, firsts, layout)
    vectors = batch.num_query_tokens * problem.num_qo_heads
    number_bytes = vectors * problem.storage.itemsize
    return Traffic(
        kv_bytes=tokens * problem.token_bytes,
        kv_page_bytes=pages * problem.page_size * problem.token_bytes,
        table_bytes=TABLE_ENTRY_BYTES * entries + LENGTH_BYTES * batch.num_seqs,
        q_bytes=number_bytes * problem.head_dim,
        out_bytes=number_bytes * problem.value_dim,
        lse_bytes=LSE_BYTES * vectors,
        flops=attention_flops(problem, batch),
        tokens=tokens,
        pages=pages,
    )


def attention_flops(problem: Problem, batch: Batch) -> int:
    """Return ``2 H_q (d + d_v)`` times the number of (query row, visible key) pairs."""
    pairs = 0
    for q_len, kv_len in zip(batch.query_lens, batch.kv_lens, strict=True):
        first, last = visible_range(problem, q_len, kv_len)
        pairs += int((last - first).sum())
    return 2 * problem.num_qo_heads * (problem.head_dim + problem.value_dim) * pairs


def _distinct(
    page_size: int, kv_lens: Sequence[int], firsts: Sequence[int], layout: PageLayout
) -> tuple[int, int]:
    """Return distinct tokens and pages of keys ``firsts[i]..kv_lens[i]-1``, through the block table."""
    layout.validate(kv_lens)
    slots = [np.empty(0, np.int64)]
    for sequence, (first, kv_len) in enumerate(zip(firsts, kv_lens, strict=True)):
        tokens = np.arange(first, kv_len, dtype=np.int64)
        pages = layout.pages(sequence, kv_len).astype(np.int64)
        slots.append(pages[tokens // page_size] * page_size + tokens % page_size)
    used = np.unique(np.concatenate(slots))
    return int(used.size), int(np.unique(used // page_size).size)
