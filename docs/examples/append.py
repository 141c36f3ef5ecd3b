# SPDX-License-Identifier: Apache-2.0
"""Writing the cache: ``decode.append`` puts new tokens into their slots, in place; -1 means: skip."""

import numpy as np


def decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale):
    out, lse = np.zeros_like(q), np.full(q.shape[:2], -np.inf, np.float32)
    group = q.shape[1] // k_cache.shape[2]
    for i, n in enumerate(kv_lens):
        pages = block_table[i, : -(-n // k_cache.shape[1])]
        k, v = (np.float32(c[pages]).reshape(-1, *c.shape[2:])[:n] for c in (k_cache, v_cache))
        for h in range(q.shape[1] if n else 0):
            logits = k[:, h // group] @ np.float32(q[i, h]) * np.float32(sm_scale)
            weights = np.exp(logits - logits.max())
            out[i, h] = weights @ v[:, h // group] / weights.sum()
            lse[i, h] = logits.max() + np.log(weights.sum())
    return out, lse


def append(k_cache, v_cache, keys, values, slot_mapping):
    written = slot_mapping >= 0
    page, offset = np.divmod(slot_mapping[written], k_cache.shape[1])
    k_cache[page, offset], v_cache[page, offset] = keys[written], values[written]


decode.append = append
