# SPDX-License-Identifier: Apache-2.0
"""SGLang's Triton kernels: decode and extend attention, and its merging of states.

Conventions converted: pages are named by the slots of their tokens (``kv_indices``, int64), made when
planning; a window of W keys is ``sliding_window_size = W - 1``, for decode and for the prefix fewer
indices, as SGLang's own backend does it; new tokens of an extension come as dense rows, gathered when
planning; only contiguous pools of layout NHD can be named by slots. Decode gives no log-sum-exp, extend a
natural one.

An e4m3 cache is not offered: queries and softmax weights are rounded to e4m3 too, which no profile says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pabench.device.base import Device
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.adapters.paged_tensors import PagedTensors, paged_tensors, token_slots
from pabench.subjects.backends.adapters.triton_host import triton_host, why_not_interpreted
from pabench.subjects.backends.adapters.triton_peers import SGLANG, SGLANG_DECODE, SGLANG_EXTEND, SGLANG_MERGE
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.torch_tensors import TORCH_DTYPES, to_numpy, upload
from pabench.subjects.backends.validate import check_attention, check_states

TANH_ERROR = 2.0**-21
"""``2 sigmoid(2 x) - 1`` in float32: half the error of the exponential (2 units) and five roundings."""
SPLITS = {"native": 8, "ptx": 8, "interpreted": 2}
"""Parts of the keys, by mode: SGLang's default, and fewer to be done sooner."""
DECODE_TILE, EXTEND_ROWS, EXTEND_TILE = 32, 32, 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """A launch with its arguments."""

    tensors: PagedTensors
    launch: Callable[[], Any]


class SglangTritonDecodeBackend:
    """``decode_attention_fwd``: keys in parts, then ``_fwd_kernel_stage2``."""

    name = "sglang-triton"
    profile = NumericsProfile(p_dtype="storage", partial_dtype="float32", tanh_error=TANH_ERROR)
    capabilities = Capabilities(
        dtypes=frozenset(TORCH_DTYPES),
        operations=frozenset({"decode", "merge"}),
        kv_layouts=frozenset({"NHD"}),
        interleaved=False,
        lse=False,
        features=frozenset({"soft-cap", "window", "sinks", "non-causal"}),
    )

    def __init__(self, device: Device) -> None:
        """Import Triton and the kernels; raises what ``triton_host`` and ``ThirdPartyPackage.load`` do."""
        self._host = triton_host(self.name, device)
        self.mode = self._host.mode
        self._modules = self._host.load(SGLANG)
        self.capabilities = replace(type(self).capabilities, dtypes=self._host.dtypes, rule=self._why_not)

    def _why_not(self, case: Case) -> str | None:
        problem, group = case.problem, case.problem.group_size
        if self.mode == "interpreted":
            heads = problem.num_qo_heads if group == 1 else problem.num_kv_heads * -(-group // 16)
            splits = SPLITS[self.mode]
            return why_not_interpreted(case, heads=heads, rows=1, tile=DECODE_TILE, splits=splits)
        return None

    def plan(self, tensors: Tensors) -> Call:
        """Upload, name the slots, and make room for the parts."""
        check_attention(self.name, self.capabilities, tensors)
        there = paged_tensors(tensors, self._host.where)
        problem, splits = there.problem, SPLITS[self.mode]
        indptr, indices = _indices(
            tensors, [(_first(problem.window, n), n) for n in there.case.batch.kv_lens]
        )
        rows, heads, head_dim = there.q.shape
        room: dict[str, Any] = {"dtype": torch.float32, "device": self._host.where}
        arguments = {
            "q": there.q,
            "k_buffer": there.k.flatten(0, 1),
            "v_buffer": there.v.flatten(0, 1),
            "o": there.out,
            "kv_indptr": indptr.to(self._host.where),
            "kv_indices": indices.to(self._host.where),
            "attn_logits": torch.full((rows, heads, splits, head_dim), torch.nan, **room),
            "attn_lse": torch.full((rows, heads, splits), torch.nan, **room),
            "num_kv_splits": torch.full((rows,), splits, dtype=torch.int32, device=self._host.where),
            "max_kv_splits": splits,
            "sm_scale": problem.scale,
            "k_scale": 1.0,
            "v_scale": 1.0,
            "logit_cap": problem.soft_cap or 0.0,
            "sinks": there.heads(problem.sinks),
            "page_size": problem.page_size,
        }
        attend = self._modules[SGLANG_DECODE].decode_attention_fwd
        return Call(tensors=there, launch=lambda: attend(**arguments))

    def run(self, plan: Call) -> None:
        """Launch both stages."""
        with self._host.launching():
            plan.launch()

    def fetch(self, plan: Call) -> AttentionOutput:
        """Wait and copy the output to the host."""
        self._host.synchronize()
        return plan.tensors.output(lse=self.capabilities.lse)

    def merge_states(self, outs: Array, lses: Array, dtype: str) -> AttentionOutput:
        """Merge two by two from the left; see ``CacheBackend.merge_states``.

        What comes between two merges is kept in float32, so that only the last one rounds to ``dtype``.
        """
        check_states(outs, lses, dtype)
        where = self._host.where
        states, logs = upload(outs, dtype, where), torch.from_numpy(np.ascontiguousarray(lses)).to(where)
        if len(states) == 1:  # merged with one that saw nothing
            states = torch.cat([states, torch.zeros_like(states)])
            logs = torch.cat([logs, torch.full_like(logs, -torch.inf)])
        out, log = states[0], logs[0]
        for index in range(1, len(states)):
            last = index == len(states) - 1
            merged = torch.empty_like(out, dtype=states.dtype if last else torch.float32)
            joined = torch.empty_like(log)
            with self._host.launching():
                merge = self._modules[SGLANG_MERGE].merge_state_triton
                merge(out, log, states[index], logs[index], merged, joined)
            out, log = merged, joined
        self._host.synchronize()
        return AttentionOutput(out=to_numpy(out), lse=to_numpy(log))


class SglangTritonExtendBackend(SglangTritonDecodeBackend):
    """``extend_attention_fwd``: new tokens over a cached prefix and over themselves."""

    name = "sglang-triton-extend"
    profile = replace(SglangTritonDecodeBackend.profile, partial_dtype=None)
    capabilities = replace(
        SglangTritonDecodeBackend.capabilities,
        operations=frozenset({"decode", "speculative", "prefill"}),
        lse=True,
    )

    def _why_not(self, case: Case) -> str | None:
        problem, batch = case.problem, case.batch
        if any(q_len > kv_len for q_len, kv_len in zip(batch.query_lens, batch.kv_lens, strict=True)):
            return "each query row brings its own key and value, so no more rows than keys"
        if problem.window == 1:
            return "a window of one key is a size of 0 there, which means none"
        if problem.window is not None and not problem.causal and not batch.is_decode:
            return "no window without a causal mask: it ends on both sides there"
        if self.mode == "interpreted":
            heads = problem.num_qo_heads
            return why_not_interpreted(case, heads=heads, rows=EXTEND_ROWS, tile=EXTEND_TILE)
        return None

    def plan(self, tensors: Tensors) -> Call:
        """Upload, name the slots of the prefix, gather the new tokens."""
        check_attention(self.name, self.capabilities, tensors)
        there = paged_tensors(tensors, self._host.where)
        problem, batch = there.problem, there.case.batch
        prefixes = [kv - rows for rows, kv in zip(batch.query_lens, batch.kv_lens, strict=True)]
        window = problem.window
        # the first new row sees one key of its own
        spans = [(0 if window is None else max(0, n - window + 1), n) for n in prefixes]
        indptr, indices = _indices(tensors, spans)
        new = [token_slots(tensors, i, n, batch.kv_lens[i]) for i, n in enumerate(prefixes)]
        at = torch.from_numpy(np.concatenate(new)).to(self._host.where)
        k, v = there.k.flatten(0, 1), there.v.flatten(0, 1)
        arguments = {
            "q_extend": there.q,
            "k_extend": k[at].contiguous(),
            "v_extend": v[at].contiguous(),
            "o_extend": there.out,
            "k_buffer": k,
            "v_buffer": v,
            "qo_indptr": there.qo_indptr,
            "kv_indptr": indptr.to(self._host.where),
            "kv_indices": indices.to(self._host.where),
            "custom_mask": None,
            "is_causal": problem.causal,
            "mask_indptr": None,
            "max_len_extend": max(batch.query_lens),
            "k_scale": 1.0,
            "v_scale": 1.0,
            "sm_scale": problem.scale,
            "logit_cap": problem.soft_cap or 0.0,
            "sliding_window_size": -1 if window is None else window - 1,
            "sinks": there.heads(problem.sinks),
            "lse_extend": there.lse,
            "page_size": problem.page_size,
        }
        attend = self._modules[SGLANG_EXTEND].extend_attention_fwd
        return Call(tensors=there, launch=lambda: attend(**arguments))


def _first(window: int | None, kv_len: int) -> int:
    """Return the first key that the last row sees."""
    return 0 if window is None else max(0, kv_len - window)


def _indices(tensors: Tensors, spans: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where each sequence's slots begin, int32, and the slots of tokens ``spans``, int64."""
    slots = [token_slots(tensors, i, first, end) for i, (first, end) in enumerate(spans)]
    starts = np.cumsum([0, *map(len, slots)], dtype=np.int32)
    # one more, so that there is memory behind an empty list
    return torch.from_numpy(starts), torch.from_numpy(np.concatenate([*slots, np.zeros(1, np.int64)]))
