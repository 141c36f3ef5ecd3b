# SPDX-License-Identifier: Apache-2.0
"""A torch function: the annotation of its first parameter asks for tensors."""

import torch


def decode(q: torch.Tensor, k_cache, v_cache, block_table, kv_lens, sm_scale, *, window):
    out, lse = torch.zeros_like(q), torch.full(q.shape[:2], -torch.inf)
    group = q.shape[1] // k_cache.shape[2]
    for i, n in enumerate(kv_lens.tolist()):
        first = 0 if window is None else max(0, n - window)
        pages = block_table[i, : -(-n // k_cache.shape[1])].long()
        k, v = (
            c[pages].flatten(0, 1)[first:n].float().repeat_interleave(group, 1) for c in (k_cache, v_cache)
        )
        if n:
            logits = torch.einsum("hd,nhd->hn", q[i].float(), k) * sm_scale
            out[i] = torch.einsum("hn,nhd->hd", logits.softmax(1), v).to(q.dtype)
            lse[i] = logits.logsumexp(1)
    return out, lse
