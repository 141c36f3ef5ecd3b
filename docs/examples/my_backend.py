# SPDX-License-Identifier: Apache-2.0
"""A backend as a class: it says what it can, plans outside the timed part, and takes both cache layouts."""

from __future__ import annotations

import numpy as np

from pabench.problem.profile import NumericsProfile
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.validate import check_attention


class MyBackend:
    """Decode of float32 with numpy, sequence by sequence."""

    name = "my-backend"
    capabilities = Capabilities(dtypes=frozenset({"float32"}), operations=frozenset({"decode"}))
    profile = NumericsProfile(partial_dtype=None)

    def __init__(self, device):
        """Take the device that the suite runs on; this one computes on the host."""

    def plan(self, tensors):
        """Refuse what is corrupt, and prepare everything that is not the computation."""
        check_attention(self.name, self.capabilities, tensors)
        problem, pool = tensors.case.problem, tensors.pool
        # (pages, page_size, heads, head_dim) whatever the layout
        caches = [c if pool.kv_layout == "NHD" else c.swapaxes(1, 2) for c in (pool.k, pool.v)]
        pages = [tensors.layout.pages(i, n) for i, n in enumerate(tensors.case.batch.kv_lens)]
        out = np.zeros_like(tensors.q)
        lse = np.full(out.shape[:2], -np.inf, np.float32)
        return problem, tensors.q, caches, pages, tensors.kv_lens, out, lse

    def run(self, plan):
        """Compute; a benchmark times this alone."""
        problem, q, caches, pages, kv_lens, out, lse = plan
        for i, n in enumerate(kv_lens):
            if n:
                k, v = (cache[pages[i]].reshape(-1, *cache.shape[2:])[:n] for cache in caches)
                grouped = q[i].reshape(problem.num_kv_heads, problem.group_size, -1)
                logits = np.float32(problem.scale) * np.einsum("hgd,nhd->hgn", grouped, k)
                top = logits.max(axis=2, keepdims=True)
                weights = np.exp(logits - top)
                total = weights.sum(axis=2)
                out[i] = (np.einsum("hgn,nhd->hgd", weights, v) / total[:, :, None]).reshape(out[i].shape)
                lse[i] = (top[:, :, 0] + np.log(total)).ravel()

    def fetch(self, plan):
        """Return output and log-sum-exp on the host, in memory of their own."""
        *_, out, lse = plan
        return AttentionOutput(out=out.copy(), lse=lse.copy())
