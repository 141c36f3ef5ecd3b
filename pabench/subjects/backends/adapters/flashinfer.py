# SPDX-License-Identifier: Apache-2.0
"""FlashInfer: its wrappers for prefill, decode and both at once, XQA, append and the merge of its cascade.

Conventions that differ from ours: pages come as one list with offsets; a window counts the keys before the
query's own; no soft cap is 0; the LSE is in base 2.  The wrappers take a workspace, made once a backend.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from pabench.errors import Unsupported
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.layout import PageLayout
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.problem.profile import NumericsProfile
from pabench.subjects.backends.adapters.gpu_pages import (
    FAST_TANH,
    HALVES,
    LN_2,
    GpuBackend,
    PagedInputs,
    Result,
    page_lists,
)
from pabench.subjects.backends.adapters.gpu_table import FLASHINFER
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.torch_tensors import to_numpy, upload
from pabench.subjects.backends.validate import check_append_paged, check_states

WORKSPACE_BYTES = 128 * 2**20
"""What FlashInfer's documentation recommends for the workspace of its wrappers."""
HEAD_DIMS = (64, 128, 256)
GROUPS = (1, 2, 3, 4, 6, 8, 16)
"""Query heads a KV head that the kernels without tensor cores are compiled for (``utils.cuh``)."""
MLA_DIMS = (512, 64)
"""Numbers of a latent vector, and of the rotary part behind it."""
MLA_GAP = 8
"""Elements that the bytes between pages are whole loads of."""
XQA_PAGE_SIZES = (16, 32, 64, 128)
BOTH = frozenset({"decode", "speculative", "prefill"})


def _head_dims(case: Case) -> str | None:
    size = case.problem.head_dim
    return None if size in HEAD_DIMS else f"head_dim {size} is none of 64, 128, 256"


def _decode(case: Case) -> str | None:
    group = case.problem.group_size
    return _head_dims(case) or (None if group in GROUPS else f"{group} query heads a KV head")


def _latent(case: Case) -> str | None:
    problem, (latent, rotary) = case.problem, MLA_DIMS
    if (problem.head_dim, problem.value_dim) != (latent + rotary, latent):
        given = f"head_dim {problem.head_dim} with values of {problem.value_dim}"
        return f"{given}, takes {latent + rotary} with {latent}"
    if case.page_gaps[0] % MLA_GAP:
        return f"pages {case.page_gaps[0]} elements apart: loads take {MLA_GAP} at a time"
    return None


def _xqa(case: Case) -> str | None:
    size = case.problem.page_size
    return _head_dims(case) or (None if size in XQA_PAGE_SIZES else f"page_size {size}")


class _FlashInfer(GpuBackend):
    peer = FLASHINFER

    @property
    def _library(self) -> Any:
        return self._modules["flashinfer"]

    @cached_property
    def _workspace(self) -> torch.Tensor:
        return torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=self._where)


def _base_2(call: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> Result:
    out, lse = call()
    return out, lse * LN_2


class FlashInferBackend(_FlashInfer):
    """``BatchPrefillWithPagedKVCacheWrapper`` for everything, ``append_paged_kv_cache``, ``merge_states``."""

    name = "flashinfer"
    capabilities = Capabilities(
        dtypes=HALVES,
        operations=BOTH | {"append-paged", "merge"},
        features=frozenset({"soft-cap", "window", "non-causal"}),
        max_head_dim=256,
        rule=_head_dims,
    )
    # P is rounded for the second product; partial outputs of split keys are stored as the output is
    profile = NumericsProfile(p_dtype="storage", partial_dtype="storage", tanh_error=FAST_TANH)

    def _prepare(self, given: PagedInputs) -> Callable[[], Result]:
        problem, pages = given.problem, given.pages
        wrapper = self._library.BatchPrefillWithPagedKVCacheWrapper(
            self._workspace, given.pool.kv_layout, backend="fa2"
        )
        wrapper.plan(
            given.qo_indptr.cpu(),
            pages["indptr"],
            pages["indices"].to(given.where),
            pages["last_page_len"],
            problem.num_qo_heads,
            problem.num_kv_heads,
            problem.head_dim,
            problem.page_size,
            causal=problem.causal,
            sm_scale=problem.scale,
            window_left=given.window_left,
            logits_soft_cap=problem.soft_cap or 0.0,
            q_data_type=given.dtype,
            kv_data_type=given.dtype,
        )
        return partial(_base_2, partial(wrapper.run, given.q, given.caches, return_lse=True))

    def append_paged(
        self,
        pool: KvPool,
        problem: Problem,
        keys: Array,
        values: Array,
        *,
        block_table: Array,
        kv_lens: Array,
        qo_indptr: Array,
    ) -> Array:
        """Write tokens with ``append_paged_kv_cache``; see ``CacheBackend.append_paged``."""
        check_append_paged(
            pool, problem, keys, values, block_table=block_table, kv_lens=kv_lens, qo_indptr=qo_indptr
        )
        if problem.dtype not in HALVES or problem.kv_dtype is not None:
            raise Unsupported(f"{self.name}: append of {problem.dtype} as {problem.kv_storage.name}")
        where = self._where
        layout = PageLayout(page_size=problem.page_size, num_pages=pool.num_pages, block_table=block_table)
        pages = page_lists(layout, kv_lens)
        written = pool.with_storage(upload(np.array(pool.storage), problem.dtype, where).clone())
        lens = torch.from_numpy(np.ascontiguousarray(kv_lens)).to(where)
        starts = torch.from_numpy(np.ascontiguousarray(qo_indptr)).to(where)
        batch, positions = self._library.get_batch_indices_positions(starts, lens, len(keys))
        self._library.append_paged_kv_cache(
            upload(keys, problem.dtype, where),
            upload(values, problem.dtype, where),
            batch,
            positions,
            (written.k, written.v),
            pages["indices"].to(where),
            pages["indptr"].to(where),
            pages["last_page_len"].to(where),
            kv_layout=pool.kv_layout,
        )
        return to_numpy(written.storage)

    def merge_states(self, outs: Array, lses: Array, dtype: str) -> AttentionOutput:
        """Merge with ``merge_states``, which takes states as the second axis and LSEs in base 2."""
        check_states(outs, lses, dtype)
        states = upload(outs, dtype, self._where).transpose(0, 1).contiguous()
        sums = torch.from_numpy(np.ascontiguousarray(lses)).to(self._where).transpose(0, 1) / LN_2
        out, lse = self._library.merge_states(states, sums.contiguous())
        return AttentionOutput(out=to_numpy(out), lse=to_numpy(lse * LN_2))


class FlashInferDecodeBackend(_FlashInfer):
    """``BatchDecodeWithPagedKVCacheWrapper`` on CUDA cores."""

    name = "flashinfer-decode"
    capabilities = Capabilities(
        dtypes=HALVES,
        operations=frozenset({"decode"}),
        features=frozenset({"soft-cap", "window"}),
        max_head_dim=256,
        rule=_decode,
    )
    profile = NumericsProfile(p_dtype="float32", partial_dtype="storage", tanh_error=FAST_TANH)

    def _prepare(self, given: PagedInputs) -> Callable[[], Result]:
        problem, pages = given.problem, given.pages
        wrapper = self._library.BatchDecodeWithPagedKVCacheWrapper(self._workspace, given.pool.kv_layout)
        wrapper.plan(
            pages["indptr"],
            pages["indices"].to(given.where),
            pages["last_page_len"],
            problem.num_qo_heads,
            problem.num_kv_heads,
            problem.head_dim,
            problem.page_size,
            window_left=given.window_left,
            logits_soft_cap=problem.soft_cap or 0.0,
            q_data_type=given.dtype,
            kv_data_type=given.dtype,
            sm_scale=problem.scale,
        )
        return partial(_base_2, partial(wrapper.run, given.q, given.caches, return_lse=True))


class FlashInferBatchBackend(_FlashInfer):
    """``BatchAttention``: decode and prefill in one launch."""

    name = "flashinfer-batch"
    capabilities = Capabilities(
        dtypes=HALVES,
        operations=BOTH,
        features=frozenset({"soft-cap", "non-causal"}),
        max_head_dim=256,
        rule=_head_dims,
    )
    profile = NumericsProfile(p_dtype="storage", partial_dtype="storage", tanh_error=FAST_TANH)

    def _prepare(self, given: PagedInputs) -> Callable[[], Result]:
        problem, pages, cap = given.problem, given.pages, given.problem.soft_cap or 0.0
        wrapper = self._library.BatchAttention(kv_layout=given.pool.kv_layout, device=str(given.where))
        wrapper.plan(
            given.qo_indptr,
            pages["indptr"].to(given.where),
            pages["indices"].to(given.where),
            given.kv_lens,
            problem.num_qo_heads,
            problem.num_kv_heads,
            problem.head_dim,
            problem.head_dim,
            problem.page_size,
            causal=problem.causal,
            sm_scale=problem.scale,
            logits_soft_cap=cap,
            q_data_type=given.dtype,
            kv_data_type=given.dtype,
        )
        return partial(_base_2, partial(wrapper.run, given.q, given.caches, logits_soft_cap=cap))


class FlashInferXqaBackend(_FlashInfer):
    """``xqa_batch_decode_with_kv_cache``, which returns no LSE."""

    name = "flashinfer-xqa"
    capabilities = Capabilities(
        dtypes=HALVES,
        operations=frozenset({"decode"}),
        features=frozenset({"window", "sinks"}),
        max_head_dim=256,
        lse=False,
        rule=_xqa,
    )
    profile = NumericsProfile(p_dtype="storage", partial_dtype="storage")

    def _prepare(self, given: PagedInputs) -> Callable[[], Result]:
        problem = given.problem
        sinks = None if problem.sinks is None else torch.tensor(problem.sinks, device=given.where)
        call = partial(
            self._library.decode.xqa_batch_decode_with_kv_cache,
            given.q,
            given.caches,
            self._workspace,
            given.block_table,
            given.kv_lens.to(torch.uint32),
            given.max_kv_len,
            bmm1_scale=problem.scale,
            bmm2_scale=1.0,
            window_left=given.window_left,
            sinks=sinks,
            kv_layout=given.pool.kv_layout,
        )
        return lambda: (call(), None)


class FlashInferMlaBackend(_FlashInfer):
    """``BatchMLAPagedAttentionWrapper`` over latent caches: a token's vector and its rotary part."""

    name = "flashinfer-mla"
    capabilities = Capabilities(
        dtypes=HALVES,
        operations=BOTH,
        features=frozenset({"latent-cache", "page-gaps", "non-causal"}),
        requires=frozenset({"latent-cache"}),
        max_head_dim=sum(MLA_DIMS),
        rule=_latent,
    )
    # P is rounded for the second product; partial outputs of split keys are stored as the output is
    profile = NumericsProfile(p_dtype="storage", partial_dtype="storage")

    def _prepare(self, given: PagedInputs) -> Callable[[], Result]:
        problem, pages, size = given.problem, given.pages, MLA_DIMS[0]
        wrapper = self._library.mla.BatchMLAPagedAttentionWrapper(self._workspace, backend="fa2")
        wrapper.plan(
            qo_indptr=given.qo_indptr.cpu(),
            kv_indptr=pages["indptr"],
            kv_indices=pages["indices"].to(given.where),
            kv_len_arr=given.kv_lens.cpu(),
            num_heads=problem.num_qo_heads,
            head_dim_ckv=size,
            head_dim_kpe=MLA_DIMS[1],
            page_size=problem.page_size,
            causal=problem.causal,
            sm_scale=problem.scale,
            q_data_type=given.dtype,
            kv_data_type=given.dtype,
            lse_mode="base2",
        )
        cache = given.nhd_caches[0][:, :, 0]
        names = ("q_nope", "q_pe", "ckv_cache", "kpe_cache")
        parts = [one for whole in (given.q, cache) for one in (whole[..., :size], whole[..., size:])]
        named = dict(zip(names, parts, strict=True))
        return partial(_base_2, partial(wrapper.run, **named, return_lse=True))
