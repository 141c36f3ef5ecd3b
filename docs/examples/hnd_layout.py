# SPDX-License-Identifier: Apache-2.0
"""Heads before tokens: ``layout = "HND"`` makes caches (num_pages, num_kv_heads, page_size, head_dim)."""

import numpy as np


def decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale):
    out, lse = np.zeros_like(q), np.full(q.shape[:2], -np.inf, np.float32)
    heads, page_size = k_cache.shape[1:3]
    for i, n in enumerate(kv_lens):
        pages = block_table[i, : -(-n // page_size)]
        for h in range(q.shape[1] if n else 0):
            kv = h // (q.shape[1] // heads)
            k, v = (np.float32(c[pages, kv]).reshape(-1, c.shape[3])[:n] for c in (k_cache, v_cache))
            logits = k @ np.float32(q[i, h]) * np.float32(sm_scale)
            weights = np.exp(logits - logits.max())
            out[i, h] = weights @ v / weights.sum()
            lse[i, h] = logits.max() + np.log(weights.sum())
    return out, lse


decode.layout = "HND"
