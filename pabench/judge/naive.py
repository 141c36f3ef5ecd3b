"""A second implementation of the truth, as plain as can be, to check the first with.

One token, one head, one number at a time: Python loops, ``divmod`` through the block table and ``math.fsum``,
whose sums are exact before the one rounding at the end.  Far too slow for anything but small cases.
"""

from __future__ import annotations

import math

import numpy as np

from pabench.judge.gather import to_float64
from pabench.problem.dtypes import Array
from pabench.problem.tensors import Tensors


def naive_attention(tensors: Tensors) -> tuple[Array, Array]:
    """Return ``out (rows, num_qo_heads, head_dim)`` and natural-log ``lse (rows, num_qo_heads)``, float64."""
    problem = tensors.case.problem
    group = problem.num_qo_heads // problem.num_kv_heads
    queries = to_float64(tensors.q, problem.storage)
    out = np.zeros(queries.shape)
    lse = np.full(queries.shape[:2], -math.inf)
    for sequence in range(len(tensors.kv_lens)):
        first, last = int(tensors.qo_indptr[sequence]), int(tensors.qo_indptr[sequence + 1])
        kv_len = int(tensors.kv_lens[sequence])
        for row in range(first, last):
            position = kv_len - (last - row)
            end = position + 1 if problem.causal else kv_len
            start = 0 if problem.window is None else max(0, position + 1 - problem.window)
            for head in range(problem.num_qo_heads):
                tokens = range(start, end)
                slots = [_slot(tensors, sequence, token, head // group) for token in tokens]
                logits = []
                for token, (key, _) in zip(tokens, slots, strict=True):
                    pairs = zip(queries[row, head].tolist(), key, strict=True)
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
                for dim in range(problem.head_dim):
                    terms = (w * value[dim] for w, (_, value) in zip(weights, slots, strict=True))
                    out[row, head, dim] = math.fsum(terms) / total
    return out, lse


def _slot(tensors: Tensors, sequence: int, token: int, kv_head: int) -> tuple[list[float], list[float]]:
    """Key and value of one token and KV head."""
    problem, pool = tensors.case.problem, tensors.pool
    logical, offset = divmod(token, problem.page_size)
    page = int(tensors.layout.block_table[sequence, logical])
    inner = (offset, kv_head) if pool.kv_layout == "NHD" else (kv_head, offset)
    found = []
    for which in (0, 1):
        lead = (page, which) if pool.interleaved else (which, page)
        scales = (problem.k_scale, problem.v_scale)[which] or (1.0,)
        scale = scales[kv_head % len(scales)]
        found.append((to_float64(pool.storage[(*lead, *inner)], problem.kv_storage) * scale).tolist())
    return found[0], found[1]
