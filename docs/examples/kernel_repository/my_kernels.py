# SPDX-License-Identifier: Apache-2.0
"""Two decode kernels of a repository: one is right, one forgets the last page when it is not full."""

import numpy as np


def decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale):
    """Attention of one query token a sequence over a paged cache."""
    return _decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale)


def decode_last_page(q, k_cache, v_cache, block_table, kv_lens, sm_scale):
    """Like ``decode`` with the fault that is met most: only full pages are read."""
    page_size = k_cache.shape[1]
    return _decode(q, k_cache, v_cache, block_table, kv_lens // page_size * page_size, sm_scale)


def _decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale):
    out, lse = np.zeros_like(q), np.full(q.shape[:2], -np.inf, np.float32)
    group = q.shape[1] // k_cache.shape[2]
    for i, n in enumerate(kv_lens):
        if n == 0:
            continue
        pages = block_table[i, : -(-n // k_cache.shape[1])]
        k, v = (np.float32(cache[pages]).reshape(-1, *cache.shape[2:])[:n] for cache in (k_cache, v_cache))
        for h in range(q.shape[1]):
            logits = k[:, h // group] @ np.float32(q[i, h]) * np.float32(sm_scale)
            weights = np.exp(logits - logits.max())
            out[i, h] = weights @ v[:, h // group] / weights.sum()
            lse[i, h] = logits.max() + np.log(weights.sum())
    return out, lse
