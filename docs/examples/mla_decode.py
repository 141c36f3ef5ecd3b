# SPDX-License-Identifier: Apache-2.0
"""Decode of multi-head latent attention with numpy: a vector a token is the key, its beginning the value."""

import numpy as np


def mla_decode(q, cache, block_table, kv_lens, sm_scale, head_dim_v):
    """Queries are absorbed already; the scale is that of the heads before absorption."""
    page_size = cache.shape[1]
    out = np.zeros((*q.shape[:2], head_dim_v), q.dtype)
    lse = np.full(q.shape[:2], -np.inf, np.float32)
    for i, n in enumerate(kv_lens):
        if n == 0:
            continue
        pages = block_table[i, : -(-n // page_size)]
        keys = cache[pages].reshape(-1, cache.shape[-1])[:n].astype(np.float32)
        logits = np.float32(sm_scale) * (q[i].astype(np.float32) @ keys.T)
        top = logits.max(axis=1, keepdims=True)
        weights = np.exp(logits - top)
        total = weights.sum(axis=1, keepdims=True)
        out[i] = weights @ keys[:, :head_dim_v] / total
        lse[i] = (top + np.log(total))[:, 0]
    return out, lse


mla_decode.latent = True
