# SPDX-License-Identifier: Apache-2.0
"""A second implementation of the truth, as plain as can be, to check the first with.

One token, one head, one number at a time: Python loops, ``divmod`` through the block table and ``math.fsum``,
whose sums are exact before the one rounding at the end.  Far too slow for anything but small cases.
"""

from __future__ import annotations

import math

import numpy as np

from pabench.judge.gather import to_float64
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.masks import MASKS, Rows
from pabench.problem.tensors import Tensors


def naive_attention(tensors: Tensors) -> tuple[Array, Array]:
    """Return ``out (rows, num_qo_heads, head_dim_v)`` and natural-log ``lse (rows, num_qo_heads)``."""
    problem = tensors.case.problem
    group = problem.num_qo_heads // problem.num_kv_heads
    queries = to_float64(tensors.q, problem.q_storage)
    out = np.zeros((*queries.shape[:2], problem.value_dim))
    lse = np.full(queries.shape[:2], -math.inf)
    for sequence in range(len(tensors.kv_lens)):
        first, last = int(tensors.qo_indptr[sequence]), int(tensors.qo_indptr[sequence + 1])
        kv_len = int(tensors.kv_lens[sequence])
        for row in range(first, last):
            position = kv_len - (last - row)
            seen = [token for token in range(kv_len) if _sees(tensors.case, sequence, position, token)]
            for head in range(problem.num_qo_heads):
                query = queries[row, head] * _scale(tensors.case, "q", sequence, head // group)
                slots = [_slot(tensors, sequence, token, head // group) for token in seen]
                logits = []
                for token, (key, _) in zip(seen, slots, strict=True):
                    pairs = zip(query.tolist(), key, strict=True)
                    logit = problem.scale * math.fsum(x * y for x, y in pairs)
                    if problem.soft_cap is not None:
                        logit = problem.soft_cap * math.tanh(logit / problem.soft_cap)
                    if problem.alibi_slopes is not None:
                        logit += problem.alibi_slopes[head] * (token - position)
                    logits.append(logit)
                extra = [] if problem.sinks is None else [problem.sinks[head]]
                if not logits and not extra:
                    continue
                top = max(logits + extra)
                weights = [math.exp(s - top) for s in logits]
                total = math.fsum(weights + [math.exp(s - top) for s in extra])
                lse[row, head] = top + math.log(total)
                for dim in range(problem.value_dim):
                    terms = (w * value[dim] for w, (_, value) in zip(weights, slots, strict=True))
                    out[row, head, dim] = math.fsum(terms) / total
    return out, lse


def _sees(case: Case, sequence: int, position: int, token: int) -> bool:
    """Whether the row at ``position`` sees ``token``: what may show more goes before the window."""
    problem, batch = case.problem, case.batch
    rows = Rows(
        sequence=sequence,
        q_len=batch.query_lens[sequence],
        kv_len=batch.kv_lens[sequence],
        page_size=problem.page_size,
    )
    seen = token <= position or not problem.causal
    for widens in (True, False):
        for name, value in case.masks:
            if MASKS[name].widens == widens:
                seen = bool(MASKS[name].admits(seen, position, token, rows, value))
        if widens and problem.window is not None:
            seen = seen and token > position - problem.window
    return seen


def _slot(tensors: Tensors, sequence: int, token: int, kv_head: int) -> tuple[list[float], list[float]]:
    """Key and value of one token and KV head."""
    problem, numbers = tensors.case.problem, tensors.pool.storage.reshape(-1)
    logical, offset = divmod(token, problem.page_size)
    page = int(tensors.layout.block_table[sequence, logical])
    found = []
    for which in (0, 1):
        start, size = _element(tensors.case, page, offset, kv_head, which, tensors.layout.num_pages)
        scale = _scale(tensors.case, "kk"[which] if problem.latent else "kv"[which], sequence, kv_head)
        # by the writer's tables, which are not those of the first truth
        stored = problem.decode_rows(numbers[start : start + size], "kv"[which])
        found.append((stored * scale).tolist())
    return found[0], found[1]


def _scale(case: Case, kind: str, sequence: int, kv_head: int) -> float:
    """Scale of one sequence and KV head, else of the head, else of all, else none."""
    rows = dict(case.scales)
    if kind in rows:
        return rows[kind][sequence][kv_head]
    scales: tuple[float, ...] = getattr(case.problem, f"{kind}_scale") or (1.0,)
    return scales[kv_head % len(scales)]


def _element(case: Case, page: int, offset: int, kv_head: int, which: int, num_pages: int) -> tuple[int, int]:
    """Return where a key (``which`` 0) or value begins in the allocation, and how long it is."""
    problem, heads, size = case.problem, case.problem.num_kv_heads, case.problem.page_size
    dims = tuple(problem.row_units(kind) for kind in "kv")
    rows = [dims[i] + case.row_gaps[i] for i in (0, 1)]
    pages = [size * heads * rows[i] + case.page_gaps[i] for i in (0, 1)]
    start = case.starts[0]
    place = offset * heads + kv_head if case.kv_layout == "NHD" else kv_head * size + offset
    if problem.latent:
        return start + page * pages[0] + place * rows[0], dims[which]
    if case.interleaved:
        return start + page * sum(pages) + which * pages[0] + place * rows[which], dims[which]
    start += which * (num_pages * pages[0] + case.starts[1])
    return start + page * pages[which] + place * rows[which], dims[which]
