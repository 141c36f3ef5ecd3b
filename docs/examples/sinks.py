# SPDX-License-Identifier: Apache-2.0
"""Attention sinks, as in gpt-oss: a logit per query head joins the softmax and the LSE, without a value."""

import numpy as np


def decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale, *, sinks):
    out, lse = np.zeros_like(q), np.full(q.shape[:2], -np.inf, np.float32)
    group = q.shape[1] // k_cache.shape[2]
    for i, n in enumerate(kv_lens):
        pages = block_table[i, : -(-n // k_cache.shape[1])]
        k, v = (np.float32(c[pages]).reshape(-1, *c.shape[2:])[:n] for c in (k_cache, v_cache))
        for h in range(q.shape[1]):
            logits = k[:, h // group] @ np.float32(q[i, h]) * np.float32(sm_scale)
            every = logits if sinks is None else np.append(logits, sinks[h])
            if every.size:
                weights = np.exp(every - every.max())
                out[i, h] = weights[:n] @ v[:, h // group] / weights.sum()
                lse[i, h] = every.max() + np.log(weights.sum())
    return out, lse
