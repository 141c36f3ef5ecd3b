# SPDX-License-Identifier: Apache-2.0
"""FlashAttention's function for ragged batches over a block table, of its own package and of vLLM's fork.

Conventions that differ from ours: a window counts the keys before the query's own; no soft cap is 0; the LSE
comes as ``(num_qo_heads, rows)``, natural logarithm.  Rows that see no key are left as the library has them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from pabench.errors import Unsupported
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.problem.profile import NumericsProfile
from pabench.subjects.backends.adapters.gpu_pages import (
    FAST_TANH,
    HALVES,
    GpuBackend,
    PagedInputs,
    Result,
    refuse_alibi_without_causal,
)
from pabench.subjects.backends.adapters.gpu_table import FLASH_ATTN, VLLM_CUDA
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.torch_tensors import to_numpy, upload
from pabench.subjects.backends.validate import check_append, check_states

OPERATIONS = frozenset({"decode", "speculative", "prefill"})
FEATURES = frozenset({"soft-cap", "window", "alibi", "non-causal"})
# FlashAttention 2 rounds P to the storage type for the second product; splits are merged in float32
PROFILE = NumericsProfile(p_dtype="storage", partial_dtype="float32", tanh_error=FAST_TANH)
OWN_PAGE_SIZE, FORK_PAGE_SIZE = 256, 16
HEAD_DIM_STEP = 8


def _rule(page_step: int, case: Case) -> str | None:
    if case.problem.page_size % page_step:
        return f"page_size {case.problem.page_size} is no multiple of {page_step}"
    if case.problem.head_dim % HEAD_DIM_STEP:
        return f"head_dim {case.problem.head_dim} is no multiple of {HEAD_DIM_STEP}"
    return refuse_alibi_without_causal(case)


def _capabilities(page_step: int, *more: str) -> Capabilities:
    return Capabilities(
        dtypes=HALVES,
        operations=OPERATIONS | frozenset(more),
        features=FEATURES,
        max_head_dim=256,
        rule=partial(_rule, page_step),
    )


def _common(given: PagedInputs) -> dict[str, Any]:
    """Arguments that both functions take."""
    problem = given.problem
    slopes = problem.alibi_slopes
    return {
        "max_seqlen_q": given.max_q_len,
        "max_seqlen_k": given.max_kv_len,
        "cu_seqlens_q": given.qo_indptr,
        "softmax_scale": problem.scale,
        "causal": problem.causal,
        "window_size": (given.window_left, 0 if problem.causal else -1),
        "softcap": problem.soft_cap or 0.0,
        "alibi_slopes": None if slopes is None else torch.tensor(slopes, device=given.where),
        "block_table": given.block_table,
    }


class FlashAttnBackend(GpuBackend):
    """``flash_attn.flash_attn_varlen_func`` with a block table."""

    name = "flash-attn"
    peer = FLASH_ATTN
    capabilities = _capabilities(OWN_PAGE_SIZE)
    profile = PROFILE

    def _prepare(self, given: PagedInputs) -> Callable[[], Result]:
        function = self._modules["flash_attn.flash_attn_interface"].flash_attn_varlen_func
        k, v = given.nhd_caches
        ends = torch.cumsum(given.kv_lens, 0, dtype=torch.int32)
        more = {
            "cu_seqlens_k": torch.cat([torch.zeros(1, dtype=torch.int32, device=given.where), ends]),
            # the third result, the probabilities, is None without dropout
            "return_attn_probs": True,
        }
        call = partial(function, given.q, k, v, **_common(given), **more)

        def run() -> Result:
            out, lse, _ = call()
            return out, lse.transpose(0, 1)

        return run


class VllmCudaBackend(GpuBackend):
    """vLLM's compiled kernels: its fork of FlashAttention 2, its append and its merge of two states.

    ``paged_attention_v1`` and ``_v2`` are not in this version any more.
    """

    name = "vllm-cuda"
    peer = VLLM_CUDA
    capabilities = _capabilities(FORK_PAGE_SIZE, "append", "merge")
    profile = PROFILE

    def _prepare(self, given: PagedInputs) -> Callable[[], Result]:
        function = self._modules["vllm.vllm_flash_attn.flash_attn_interface"].flash_attn_varlen_func
        k, v = given.nhd_caches
        arguments = _common(given)
        arguments["window_size"] = list(arguments["window_size"])
        more = {"seqused_k": given.kv_lens, "return_softmax_lse": True, "fa_version": 2}
        call = partial(function, given.q, k, v, **arguments, **more)

        def run() -> Result:
            out, lse = call()[:2]
            return out, lse.transpose(0, 1)

        return run

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Write tokens with ``reshape_and_cache_flash``, which skips slots below 0."""
        check_append(pool, keys, values, slot_mapping, dtype)
        if dtype not in HALVES or pool.kv_layout != "NHD":
            raise Unsupported(f"{self.name}: append of {dtype} in {pool.kv_layout}")
        written = pool.with_storage(upload(np.array(pool.storage, order="C"), dtype, self._where).clone())
        one = torch.ones((), device=self._where)
        self._modules["vllm._custom_ops"].reshape_and_cache_flash(
            upload(keys, dtype, self._where),
            upload(values, dtype, self._where),
            written.k,
            written.v,
            torch.from_numpy(np.asarray(slot_mapping).astype(np.int64)).to(self._where),
            "auto",
            one,
            one,
        )
        return to_numpy(written.storage)

    def merge_states(self, outs: Array, lses: Array, dtype: str) -> AttentionOutput:
        """Merge two states; more would be rounded between the merges, which is another operation."""
        check_states(outs, lses, dtype)
        if len(outs) != 2:
            raise Unsupported(f"{self.name}: merge of {len(outs)} states, takes 2")
        first, second = (upload(np.ascontiguousarray(part), dtype, self._where) for part in outs)
        lse = [torch.from_numpy(np.ascontiguousarray(part.T)).to(self._where) for part in lses]
        out, out_lse = torch.empty_like(first), torch.empty_like(lse[0])
        self._modules["vllm._custom_ops"].merge_attn_states(
            output=out,
            prefix_output=first,
            prefix_lse=lse[0],
            suffix_output=second,
            suffix_lse=lse[1],
            output_lse=out_lse,
        )
        return AttentionOutput(out=to_numpy(out), lse=to_numpy(out_lse.transpose(0, 1).contiguous()))
