# SPDX-License-Identifier: Apache-2.0
"""Any mask: ``mask[row, key]`` says which keys a row sees, such as trees of drafts or image spans."""

import numpy as np


def attend(q, k_cache, v_cache, block_table, kv_lens, sm_scale, *, qo_indptr, mask):
    out, lse = np.zeros_like(q), np.full(q.shape[:2], -np.inf, np.float32)
    group = q.shape[1] // k_cache.shape[2]
    for i, n in enumerate(kv_lens):
        pages = block_table[i, : -(-n // k_cache.shape[1])]
        k, v = (np.float32(c[pages]).reshape(-1, *c.shape[2:])[:n] for c in (k_cache, v_cache))
        end = qo_indptr[i + 1]
        for row in range(qo_indptr[i], end):
            # no mask: causal, aligned at the last row
            seen = np.arange(n) < n - (end - 1 - row) if mask is None else mask[row, :n]
            for h in range(q.shape[1] if seen.any() else 0):
                logits = k[seen, h // group] @ np.float32(q[row, h]) * np.float32(sm_scale)
                weights = np.exp(logits - logits.max())
                out[row, h] = weights @ v[seen, h // group] / weights.sum()
                lse[row, h] = logits.max() + np.log(weights.sum())
    return out, lse
