# SPDX-License-Identifier: Apache-2.0
"""vLLM's other routes in Triton: prefix prefill with paged decode, and the split-KV decode of its MLA layers.

``chunked_prefill_paged_decode`` takes the new tokens' keys and values as dense rows beside the cache, so
these are gathered when planning; its keys lie as ``(page, head, dim // x, slot, x)`` and its values as
``(page, head, dim, slot)``, which is another cache than ours, so it is copied into that form when planning,
strides and all. A window of W keys is W there. No log-sum-exp, no soft cap.

``decode_attention_fwd`` of ``triton_decode_attention`` takes the cache by strides and gives the natural
log-sum-exp; it has a soft cap, and no window, ALiBi or sinks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pabench.device.base import Device
from pabench.problem.case import Case
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.adapters.paged_tensors import (
    PagedTensors,
    paged_tensors,
    token_slots,
    why_not_one_scale,
)
from pabench.subjects.backends.adapters.triton_host import triton_host, why_not_grouped, why_not_interpreted
from pabench.subjects.backends.adapters.triton_peers import CHUNKED, DECODE, VLLM
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.torch_tensors import TORCH_DTYPES
from pabench.subjects.backends.validate import check_attention
from pabench.subjects.peers.stubs import stubs

TANH_ERROR = 2.0**-21
"""``2 sigmoid(2 x) - 1`` in float32: half the error of the exponential (2 units) and five roundings."""
DECODE_TILE = {True: 64, False: 32}
"""Keys of a tile of the split-KV decode, by whether each query head has its own KV head."""
DECODE_SPLITS = 4
"""Parts of the keys, as vLLM's own callers have it."""
CONTEXT_TILE, PREFILL_ROWS = 32, 128
LEAST_TILE = 16
"""Keys of the smallest tile for which Triton compiles a product of matrices."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """A launch with its arguments."""

    tensors: PagedTensors
    launch: Callable[[], Any]


class VllmTritonChunkedBackend:
    """``chunked_prefill_paged_decode``: ``context_attention_fwd``, then ``kernel_paged_attention_2d``."""

    name = "vllm-triton-chunked"
    profile = NumericsProfile(p_dtype="storage", partial_dtype=None, kv_dtype="storage")
    capabilities = Capabilities(
        dtypes=frozenset(TORCH_DTYPES),
        operations=frozenset({"decode", "speculative", "prefill"}),
        lse=False,
        features=frozenset({"window", "alibi", "sinks"}),
    )

    def __init__(self, device: Device) -> None:
        """Import Triton and the kernels; raises what ``triton_host`` and ``ThirdPartyPackage.load`` do."""
        self._host = triton_host(self.name, device)
        self.mode = self._host.mode
        self._modules = self._host.load(VLLM)
        self._folder = VLLM.find().folder
        self.capabilities = replace(type(self).capabilities, dtypes=self._host.dtypes, rule=self._why_not)

    def _why_not(self, case: Case) -> str | None:
        problem, batch = case.problem, case.batch
        pairs = list(zip(batch.query_lens, batch.kv_lens, strict=True))
        if any(q_len > kv_len for q_len, kv_len in pairs if q_len > 1):
            return "each query row brings its own key and value, so no more rows than keys"
        if problem.alibi_slopes is not None and problem.sinks is not None and not batch.is_decode:
            return "no alibi with sinks"
        if reason := why_not_grouped(case):
            return reason
        whole = problem.page_size.bit_count() == 1  # pages of any other size are read in tiles
        if self._host.compiled and whole and problem.page_size < LEAST_TILE:
            return (
                f"no pages of {problem.page_size} tokens: compiled, a page is a tile of at least {LEAST_TILE}"
            )
        if self.mode == "interpreted":
            if not batch.is_decode:
                heads, rows, tile = problem.num_qo_heads, PREFILL_ROWS, CONTEXT_TILE
            else:
                heads, rows, tile = problem.num_kv_heads, 1, problem.page_size if whole else CONTEXT_TILE
            return why_not_interpreted(case, heads=heads, rows=rows, tile=tile)
        return None

    def plan(self, tensors: Tensors) -> Call:
        """Upload, gather the new tokens, and lay the cache out as the kernels want it."""
        check_attention(self.name, self.capabilities, tensors)
        there = paged_tensors(tensors, self._host.where, spare=CONTEXT_TILE)
        # a sequence without query rows is decoded into the row where they would begin, maybe behind the last
        query, output = (torch.cat([rows, torch.zeros_like(rows[:1])]) for rows in (there.q, there.out))
        there = replace(there, q=query[:-1], out=output[:-1])
        problem, batch = there.problem, there.case.batch
        ends = enumerate(zip(batch.query_lens, batch.kv_lens, strict=True))
        slots = [token_slots(tensors, i, max(0, kv - rows), kv) for i, (rows, kv) in ends]
        # a row without a key, of an empty sequence, brings one that is never read
        rows = [
            np.pad(found, (rows - len(found), 0)) for found, rows in zip(slots, batch.query_lens, strict=True)
        ]
        at = torch.from_numpy(np.concatenate(rows)).to(self._host.where)
        page, offset = at // problem.page_size, at % problem.page_size
        # in a pool without pages nobody has a token
        new = [
            cache[page, offset] if len(cache) else cache.new_zeros((len(at), *cache.shape[2:]))
            for cache in (there.k, there.v)
        ]
        x = 16 // there.k.element_size()
        if problem.head_dim % x:
            x = 1
        pages, size, heads, dim = there.k.shape
        key_cache = there.k.reshape(pages, size, heads, dim // x, x).permute(0, 2, 3, 1, 4).contiguous()
        value_cache = there.v.permute(0, 2, 3, 1).contiguous()
        one = torch.ones(1, device=self._host.where)
        arguments = {
            "query": query,
            "key": new[0],
            "value": new[1],
            "output": output,
            "kv_cache_dtype": "auto",
            "key_cache": key_cache,
            "value_cache": value_cache,
            "block_table": there.block_table,
            "query_start_loc": there.qo_indptr,
            "seq_lens": there.kv_lens,
            "max_seq_len": max(batch.kv_lens),
            "max_query_len": max(batch.query_lens),
            "k_scale": one,
            "v_scale": one,
            "alibi_slopes": there.heads(problem.alibi_slopes),
            "sliding_window": problem.window,
            "sm_scale": problem.scale,
            "sinks": there.heads(problem.sinks),
            "causal": problem.causal,
        }
        attend = self._modules[CHUNKED].chunked_prefill_paged_decode
        return Call(tensors=there, launch=lambda: attend(**arguments))

    def run(self, plan: Call) -> None:
        """Launch both; the function asks a module of ROCm's whether it may use another kernel: it may not."""
        asked = {"use_rocm_custom_paged_attention": lambda *asked: False}
        replaced = {"vllm.platforms": {}, "vllm.platforms.rocm": asked}
        with stubs("vllm", self._folder, bare=("vllm",), replaced=replaced), self._host.launching():
            plan.launch()

    def fetch(self, plan: Call) -> AttentionOutput:
        """Wait and copy the output to the host."""
        self._host.synchronize()
        return plan.tensors.output(lse=False)


class VllmTritonDecodeBackend:
    """``triton_decode_attention.decode_attention_fwd``: keys in 4 parts, then ``_fwd_kernel_stage2``."""

    name = "vllm-triton-decode"
    profile = NumericsProfile(
        p_dtype="storage", partial_dtype="float32", kv_dtype="storage", tanh_error=TANH_ERROR
    )
    capabilities = Capabilities(
        dtypes=frozenset(TORCH_DTYPES),
        operations=frozenset({"decode"}),
        features=frozenset({"soft-cap", "fp8-kv", "non-causal"}),
    )

    def __init__(self, device: Device) -> None:
        """Import Triton and the kernels; raises what ``triton_host`` and ``ThirdPartyPackage.load`` do."""
        self._host = triton_host(self.name, device)
        self.mode = self._host.mode
        self._modules = self._host.load(VLLM)
        self.capabilities = replace(type(self).capabilities, dtypes=self._host.dtypes, rule=self._why_not)

    def _why_not(self, case: Case) -> str | None:
        problem, group = case.problem, case.problem.group_size
        reason = self._host.why_not(case) or why_not_one_scale(case)
        if reason is None and self.mode == "interpreted":
            heads = problem.num_qo_heads if group == 1 else problem.num_kv_heads * -(-group // 16)
            tile = DECODE_TILE[group == 1]
            return why_not_interpreted(case, heads=heads, rows=1, tile=tile, splits=DECODE_SPLITS)
        return reason

    def plan(self, tensors: Tensors) -> Call:
        """Upload and make room for the parts."""
        check_attention(self.name, self.capabilities, tensors)
        there = paged_tensors(tensors, self._host.where)
        problem = there.problem
        rows, heads, head_dim = there.q.shape
        parts = torch.full(
            (rows, heads, DECODE_SPLITS, head_dim + 1),
            torch.nan,
            dtype=torch.float32,
            device=self._host.where,
        )
        arguments = {
            "q": there.q,
            "k_buffer": there.k,
            "v_buffer": there.v,
            "o": there.out,
            "lse": there.lse,
            "req_to_token": there.block_table,
            "b_seq_len": there.kv_lens,
            "attn_logits": parts,
            "num_kv_splits": DECODE_SPLITS,
            "sm_scale": problem.scale,
            "page_size": problem.page_size,
            "logit_cap": problem.soft_cap or 0.0,
            "k_scale": there.scale("k"),
            "v_scale": there.scale("v"),
        }
        attend = self._modules[DECODE].decode_attention_fwd
        return Call(tensors=there, launch=lambda: attend(**arguments))

    def run(self, plan: Call) -> None:
        """Launch both stages."""
        with self._host.launching():
            plan.launch()

    def fetch(self, plan: Call) -> AttentionOutput:
        """Wait and copy output and LSE to the host."""
        self._host.synchronize()
        return plan.tensors.output(lse=True)
