# SPDX-License-Identifier: Apache-2.0
"""ALiBi: a slope per query head times the distance of the key."""

import numpy as np


def decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale, *, alibi_slopes):
    out, lse = np.zeros_like(q), np.full(q.shape[:2], -np.inf, np.float32)
    group = q.shape[1] // k_cache.shape[2]
    for i, n in enumerate(kv_lens):
        pages = block_table[i, : -(-n // k_cache.shape[1])]
        k, v = (np.float32(c[pages]).reshape(-1, *c.shape[2:])[:n] for c in (k_cache, v_cache))
        distance = np.arange(n, dtype=np.float32) - np.float32(n - 1)
        for h in range(q.shape[1] if n else 0):
            logits = k[:, h // group] @ np.float32(q[i, h]) * np.float32(sm_scale)
            if alibi_slopes is not None:
                logits = logits + alibi_slopes[h] * distance
            weights = np.exp(logits - logits.max())
            out[i, h] = weights @ v[:, h // group] / weights.sum()
            lse[i, h] = logits.max() + np.log(weights.sum())
    return out, lse
