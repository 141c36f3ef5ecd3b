# SPDX-License-Identifier: Apache-2.0
"""xFormers: ``memory_efficient_attention`` with its paged bias, by the split-key Triton operator.

Conventions that differ from ours: the cache is one row of all slots, heads of a group are an axis of their
own, and the LSE comes as ``(1, num_kv_heads, group_size, rows)``, natural logarithm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from pabench.problem.case import Case
from pabench.problem.profile import NumericsProfile
from pabench.subjects.backends.adapters.gpu_pages import HALVES, GpuBackend, PagedInputs, Result
from pabench.subjects.backends.adapters.gpu_table import XFORMERS
from pabench.subjects.backends.base import Capabilities

PAGE_STEP = 64
"""The operator's tile of keys, which must not cross a page."""


def _rule(case: Case) -> str | None:
    size, head_dim = case.problem.page_size, case.problem.head_dim
    if size % PAGE_STEP:
        return f"page_size {size} is no multiple of {PAGE_STEP}"
    return None if head_dim in (16, 32, 64, 128, 256, 512) else f"head_dim {head_dim}"


class XformersBackend(GpuBackend):
    """``memory_efficient_attention_forward_requires_grad``, which gives the LSE too."""

    name = "xformers"
    peer = XFORMERS
    # more than one row: the operator wants as many of each sequence, and the mask is then another class
    capabilities = Capabilities(
        dtypes=HALVES,
        operations=frozenset({"decode"}),
        kv_layouts=frozenset({"NHD"}),
        interleaved=False,
        max_head_dim=512,
        rule=_rule,
    )
    profile = NumericsProfile(p_dtype="storage", partial_dtype="float32")

    def _prepare(self, given: PagedInputs) -> Callable[[], Result]:
        fmha, problem = self._modules["xformers.ops.fmha"], given.problem
        groups, rows = problem.group_size, len(given.q)
        bias = self._modules["xformers.ops.fmha.attn_bias"].PagedBlockDiagonalPaddedKeysMask.from_seqlens(
            q_seqlen=list(given.case.batch.query_lens),
            kv_seqlen=list(given.case.batch.kv_lens),
            block_tables=given.block_table,
            page_size=problem.page_size,
            device=given.where,
        )
        heads = (problem.num_kv_heads, groups, problem.head_dim)
        k, v = (cache.reshape(1, -1, heads[0], 1, heads[2]).expand(-1, -1, *heads) for cache in given.caches)
        call = partial(
            fmha.memory_efficient_attention_forward_requires_grad,
            given.q.reshape(1, rows, *heads),
            k,
            v,
            attn_bias=bias,
            scale=problem.scale,
            op=self._modules["xformers.ops.fmha.triton_splitk"].FwOp,
        )

        def run() -> Result:
            out, lse = call()
            sums: torch.Tensor = lse.reshape(problem.num_qo_heads, rows).transpose(0, 1)
            return out.reshape(rows, problem.num_qo_heads, problem.head_dim), sums

        return run
