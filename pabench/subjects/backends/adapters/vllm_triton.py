# SPDX-License-Identifier: Apache-2.0
"""vLLM's Triton kernels: unified attention, whole and with split keys; cache writing; merging of states.

Conventions converted: a window of W keys is ``window_size = (W - 1, 0)``; the cache is given by strides, so
both layouts and strided pools are taken as they are; the scales of an e4m3 cache are one number each; ALiBi
and sinks are numbers in float32. There is no log-sum-exp. Kernels read entries of the block table behind a
sequence's last page, up to a tile of them, and use none; vLLM's own table is wide enough, so ours is made
wider. The output starts as NaN, since vLLM gives its kernels memory that nobody wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pabench.device.base import Device
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.adapters.paged_tensors import (
    PagedTensors,
    by_token,
    paged_tensors,
    why_not_one_scale,
)
from pabench.subjects.backends.adapters.triton_host import triton_host, why_not_grouped, why_not_interpreted
from pabench.subjects.backends.adapters.triton_peers import CACHE, MERGE, UNIFIED, VLLM, QuantMode
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.torch_tensors import TORCH_DTYPES, to_numpy, upload
from pabench.subjects.backends.validate import check_append, check_attention, check_states

TILE = 32
"""Keys of the widest tile of the unified kernel, so of what it reads of the block table at once."""
TANH_ERROR = 2.0**-21
"""``1 - 2 / (exp(2 y) + 1)`` in float32: half the error of the exponential (2 units) and five roundings."""
SEGMENTS = {"native": 16, "ptx": 16, "interpreted": 4}
"""Parts of the keys, by mode: vLLM's ``NUM_PAR_SOFTMAX_SEGMENTS``, and fewer to be done sooner."""


def _why_not(case: Case) -> str | None:
    problem, batch = case.problem, case.batch
    if problem.window is not None and not problem.causal and not batch.is_decode:
        return "no window without a causal mask: it ends on both sides there"
    return why_not_one_scale(case) or why_not_grouped(case)


def _block_rows(case: Case) -> int:
    """Return the query rows of a block: 16 rows of heads that share a KV head, or one row of all of them."""
    return max(1, 16 // case.problem.group_size)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnifiedPlan:
    """Arguments of one call, by name."""

    tensors: PagedTensors
    arguments: dict[str, Any]


class VllmTritonBackend:
    """``unified_attention`` in one pass, ``triton_reshape_and_cache_flash``, ``merge_attn_states``."""

    name = "vllm-triton"
    # softmax weights, and an e4m3 cache, are rounded to the type of the queries before the products
    profile = NumericsProfile(
        p_dtype="storage", partial_dtype=None, kv_dtype="storage", tanh_error=TANH_ERROR
    )
    capabilities = Capabilities(
        dtypes=frozenset(TORCH_DTYPES),
        operations=frozenset({"decode", "speculative", "prefill", "append", "merge"}),
        lse=False,
        features=frozenset({"soft-cap", "window", "alibi", "sinks", "fp8-kv", "non-causal"}),
    )

    def __init__(self, device: Device) -> None:
        """Import Triton and the kernels; raises what ``triton_host`` and ``ThirdPartyPackage.load`` do."""
        self._host = triton_host(self.name, device)
        self.mode = self._host.mode
        self._modules = self._host.load(VLLM)
        self.capabilities = replace(type(self).capabilities, dtypes=self._host.dtypes, rule=self._why_not)

    def _why_not(self, case: Case) -> str | None:
        reason = self._host.why_not(case) or _why_not(case)
        if reason is None and self.mode == "interpreted":
            heads, rows = case.problem.num_kv_heads, _block_rows(case)
            return why_not_interpreted(case, heads=heads, rows=rows, tile=TILE)
        return reason

    def plan(self, tensors: Tensors) -> UnifiedPlan:
        """Upload; see ``Backend``."""
        check_attention(self.name, self.capabilities, tensors)
        there = paged_tensors(tensors, self._host.where, spare=TILE)
        problem, batch = there.problem, there.case.batch
        quantized = problem.kv_dtype is not None
        arguments = {
            "q": there.q,
            "k": there.k,
            "v": there.v,
            "out": there.out,
            "cu_seqlens_q": there.qo_indptr,
            "max_seqlen_q": max(batch.query_lens),
            "seqused_k": there.kv_lens,
            "max_seqlen_k": max(batch.kv_lens),
            "softmax_scale": problem.scale,
            "causal": problem.causal,
            "window_size": (-1, -1) if problem.window is None else (problem.window - 1, 0),
            "block_table": there.block_table,
            "softcap": problem.soft_cap or 0.0,
            "q_descale": None,
            "k_descale": there.scale("k") if quantized else None,
            "v_descale": there.scale("v") if quantized else None,
            "alibi_slopes": there.heads(problem.alibi_slopes),
            "sinks": there.heads(problem.sinks),
            "kv_quant_mode": QuantMode.FP8_PER_TENSOR if quantized else QuantMode.NONE,
        }
        return UnifiedPlan(tensors=there, arguments=arguments | self._split(there))

    def _split(self, there: PagedTensors) -> dict[str, Any]:
        """Return the arguments that make it split keys."""
        return {}

    def run(self, plan: UnifiedPlan) -> None:
        """Launch."""
        with self._host.launching():
            self._modules[UNIFIED].unified_attention(**plan.arguments)

    def fetch(self, plan: UnifiedPlan) -> AttentionOutput:
        """Wait and copy the output to the host."""
        self._host.synchronize()
        return plan.tensors.output(lse=False)

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Write tokens into a copy of the cache; see ``Backend.append``."""
        check_append(pool, keys, values, slot_mapping, dtype)
        where = self._host.where
        storage = upload(np.array(pool.storage), dtype, where).clone()
        written = pool.with_storage(storage)
        one = torch.ones(1, device=where)
        with self._host.launching():
            self._modules[CACHE].triton_reshape_and_cache_flash(
                upload(keys, dtype, where),
                upload(values, dtype, where),
                by_token(written, written.k),
                by_token(written, written.v),
                torch.from_numpy(np.asarray(slot_mapping).astype(np.int64)).to(where),
                "auto",
                one,
                one,
            )
        self._host.synchronize()
        return to_numpy(storage)

    def merge_states(self, outs: Array, lses: Array, dtype: str) -> AttentionOutput:
        """Merge two by two from the left; see ``CacheBackend.merge_states``.

        What comes between two merges is kept in float32, so that only the last one rounds to ``dtype``.
        """
        check_states(outs, lses, dtype)
        where = self._host.where
        states = upload(outs, dtype, where)
        # LSEs are (heads, rows) there
        logs = torch.from_numpy(np.ascontiguousarray(lses.transpose(0, 2, 1))).to(where)
        if len(states) == 1:  # merged with one that saw nothing
            states = torch.cat([states, torch.zeros_like(states)])
            logs = torch.cat([logs, torch.full_like(logs, -torch.inf)])
        out, log = states[0], logs[0]
        for index in range(1, len(states)):
            last = index == len(states) - 1
            merged = torch.empty_like(out, dtype=states.dtype if last else torch.float32)
            joined = torch.empty_like(log)
            with self._host.launching():
                self._modules[MERGE].merge_attn_states(merged, out, log, states[index], logs[index], joined)
            out, log = merged, joined
        self._host.synchronize()
        return AttentionOutput(out=to_numpy(out), lse=to_numpy(log.T.contiguous()))


class VllmTritonSplitBackend(VllmTritonBackend):
    """``unified_attention`` with the keys of a sequence in segments, and ``reduce_segments``."""

    name = "vllm-triton-split"
    profile = replace(VllmTritonBackend.profile, partial_dtype="float32")
    capabilities = replace(VllmTritonBackend.capabilities, operations=frozenset({"decode", "speculative"}))

    def _why_not(self, case: Case) -> str | None:
        if max(case.batch.query_lens) > 1 and not case.problem.causal:
            return "no split of keys without a causal mask"
        reason = self._host.why_not(case) or _why_not(case)
        if reason is None and self.mode == "interpreted":
            heads, splits = case.problem.num_kv_heads, SEGMENTS[self.mode]
            return why_not_interpreted(
                case, heads=heads, rows=_block_rows(case), tile=TILE // 2, splits=splits
            )
        return reason

    def _split(self, there: PagedTensors) -> dict[str, Any]:
        rows, heads, head_dim = there.q.shape
        padded, segments = 1 << (head_dim - 1).bit_length(), SEGMENTS[self.mode]
        shapes = {"output": (padded,), "max": (), "expsum": ()}
        # NaN, since vLLM's scratch is memory that nobody wrote
        scratch = {
            f"softmax_segm_{name}": torch.full(
                (rows, heads, segments, *shape), torch.nan, dtype=torch.float32, device=there.q.device
            )
            for name, shape in shapes.items()
        }
        return {"seq_threshold_3D": 2**30, "num_par_softmax_segments": segments, **scratch}
