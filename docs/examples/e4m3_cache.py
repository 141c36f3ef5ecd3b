# SPDX-License-Identifier: Apache-2.0
"""A cache in FP8 (e4m3) with a scale per KV head; the scales are None when the cache has the type of q."""

import numpy as np

BITS = np.arange(256)
EXPONENT, FRACTION = BITS >> 3 & 15, BITS & 7
SIZE = np.ldexp(np.where(EXPONENT, 8 + FRACTION, FRACTION), np.maximum(EXPONENT, 1) - 10)
E4M3 = np.where(BITS & 127 == 127, np.nan, np.where(BITS < 128, SIZE, -SIZE)).astype(np.float32)


def decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale, *, k_scale, v_scale):
    out, lse = np.zeros_like(q), np.full(q.shape[:2], -np.inf, np.float32)
    group = q.shape[1] // k_cache.shape[2]
    for i, n in enumerate(kv_lens):
        pages = block_table[i, : -(-n // k_cache.shape[1])]
        k, v = (c[pages].reshape(-1, *c.shape[2:])[:n] for c in (k_cache, v_cache))
        if k_scale is not None:
            k, v = E4M3[k] * k_scale[:, None], E4M3[v] * v_scale[:, None]
        for h in range(q.shape[1] if n else 0):
            logits = np.float32(k[:, h // group]) @ np.float32(q[i, h]) * np.float32(sm_scale)
            weights = np.exp(logits - logits.max())
            out[i, h] = weights @ np.float32(v[:, h // group]) / weights.sum()
            lse[i, h] = logits.max() + np.log(weights.sum())
    return out, lse
