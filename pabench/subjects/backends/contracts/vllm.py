# SPDX-License-Identifier: Apache-2.0
"""An attention plugin of vLLM: its builder makes metadata, its implementation writes the cache and attends.

Driven as vLLM 0.33's model runner does.  The cache is ``(pages, heads, page_size, 2 * head_dim)``, K and V of
a slot in a row, or what ``get_kv_cache_shape`` of older plugins says; block 0 is nobody's.  A padded batch
has requests without rows: their length is 0, their blocks are 0, their slots are -1.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Any

import torch

from pabench.device.base import Device
from pabench.errors import Unsupported, UsageError
from pabench.problem.case import Case
from pabench.subjects.backends.contracts.metadata import (
    check_addresses,
    check_metadata,
    check_unchanged,
    copies,
)
from pabench.subjects.backends.contracts.offered import offer
from pabench.subjects.backends.contracts.plugin import PluginBackend, called_with
from pabench.subjects.backends.contracts.step import CAPTURED_SIZES, Step
from pabench.subjects.backends.contracts.vllm_names import BACKEND, MODULES
from pabench.subjects.backends.torch_tensors import TORCH_DTYPES

LAYER = "model.layers.0.self_attn.attn"


def prepare() -> None:
    """Make vLLM's names importable."""
    offer(MODULES)


class VllmPlugin(PluginBackend):
    """An ``AttentionBackend`` class of vLLM."""

    engine = "vllm"

    def __init__(self, name: str, plugin: Any, device: Device, *, padded: bool) -> None:
        """See ``PluginBackend``."""
        for method in ("get_impl_cls", "get_builder_cls"):
            if not callable(getattr(plugin, method, None)):
                raise UsageError(f"backend {name!r}: no {method}; must be an AttentionBackend of vLLM")
        super().__init__(name, plugin, device, padded=padded)
        builder = plugin.get_builder_cls()
        if padded and _support(builder) == "NEVER":
            raise Unsupported(f"backend {name!r}: its builder supports no CUDA graphs")
        stated = {kind for kind, dtype in TORCH_DTYPES.items() if dtype in plugin.supported_dtypes}
        given = {
            "window": plugin.supports_sliding_window(),
            "sinks": plugin.supports_sink(),
            "non-causal": plugin.supports_non_causal() and not padded,
        }
        features = {feature for feature, there in given.items() if there} | self.capabilities.features
        self.capabilities = replace(
            self.capabilities,
            dtypes=frozenset(stated) & self.capabilities.dtypes,
            features=frozenset(features),
        )

    def why_not(self, case: Case) -> str | None:
        """See ``PluginBackend``; block and head sizes are those that the plugin supports."""
        heads, size = self.plugin.get_supported_head_sizes(), case.problem.page_size
        if heads and case.problem.head_dim not in heads:
            return f"no head_dim {case.problem.head_dim}"
        blocks = [getattr(one, "base", one) for one in self.plugin.get_supported_kernel_block_sizes()]
        if blocks and not any(size % block == 0 for block in blocks):
            return f"no pages of {size}"
        return super().why_not(case)

    def served(self, step: Step) -> VllmBatch:
        """See ``PluginBackend``."""
        problem = step.case.problem
        spec_class = importlib.import_module("vllm.v1.kv_cache_interface").FullAttentionSpec
        spec = spec_class(
            block_size=problem.page_size,
            num_kv_heads=problem.num_kv_heads,
            head_size=problem.head_dim,
            dtype=step.q.dtype,
            sliding_window=problem.window,
        )
        builder = self.plugin.get_builder_cls()(spec, [LAYER], _config(step), self.where)
        implementation = self.plugin.get_impl_cls()
        named: dict[str, Any] = {
            "num_heads": problem.num_qo_heads,
            "head_size": problem.head_dim,
            "scale": problem.scale,
            "num_kv_heads": problem.num_kv_heads,
            "alibi_slopes": None if problem.alibi_slopes is None else list(problem.alibi_slopes),
            "sliding_window": problem.window,
            "kv_cache_dtype": "auto",
            "logits_soft_cap": problem.soft_cap,
            "attn_type": "decoder",
            "kv_sharing_target_layer_name": None,
        }
        if problem.sinks is not None:
            named["sinks"] = torch.tensor(problem.sinks, dtype=torch.float32, device=self.where)
        made = implementation(**called_with(implementation.__init__, named))
        return VllmBatch(
            step=step, plugin=self.plugin, builder=builder, implementation=made, padded=self.padded
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VllmBatch:
    """A batch for one layer."""

    step: Step
    plugin: Any
    builder: Any
    implementation: Any
    padded: bool

    def run(self) -> torch.Tensor:
        """See ``Served``."""
        step, rows = self.step, len(self.step.q)
        room = step.padded if self.padded else rows
        requests = step.padded if self.padded else step.case.batch.num_seqs
        buffers = _Buffers(step, rows=room, requests=requests)
        metadata = captured = None
        if self.padded:
            common = buffers.common(step.padded, step.padded, step)
            captured = self.builder.build_for_cudagraph_capture(common)
        buffers.fill(step)
        common = buffers.common(requests, room, step)
        before = copies(common)
        metadata = self.builder.build(common_prefix_len=0, common_attn_metadata=common)
        check_unchanged("the builder", common, before)
        check_metadata(metadata, max_len=step.max_len, slots=step.k.shape[0] * step.k.shape[1])
        if captured is not None:
            check_addresses(captured, metadata)
            # a graph has what Python saw when it was captured
            metadata = captured
        self._forward(buffers, metadata)
        check_unchanged("forward", common, before)
        step.check_cache()
        return buffers.out[:rows]

    def _forward(self, buffers: _Buffers, metadata: Any) -> None:
        step = self.step
        cache = _cache(self.plugin, step)
        one = torch.ones((), device=step.q.device)
        scales = {f"_{name}_scale": one for name in ("q", "k", "v", "prob")}
        numbers = {f"_{name}_scale_float": 1.0 for name in ("q", "k", "v")}
        layer = SimpleNamespace(layer_name=LAYER, **scales, **numbers)
        if not self.plugin.forward_includes_kv_cache_update:
            self.implementation.do_kv_cache_update(layer, buffers.keys, buffers.values, cache, buffers.slots)
        self.implementation.forward(
            layer, buffers.q, buffers.keys, buffers.values, cache, metadata, output=buffers.out
        )
        _read_back(cache, step)


class _Buffers:
    """Arrays of the model runner: they stay where they are while batches come and go."""

    def __init__(self, step: Step, *, rows: int, requests: int) -> None:
        def empty(like: torch.Tensor, count: int, value: float) -> torch.Tensor:
            return torch.full((count, *like.shape[1:]), value, dtype=like.dtype, device=like.device)

        self.q, self.out = empty(step.q, rows, torch.nan), empty(step.q, rows, torch.nan)
        self.keys, self.values = (empty(one, rows, torch.nan) for one in (step.keys, step.values))
        self.slots = empty(step.slots, rows, -1)
        self.table = empty(step.block_table, requests, 0)
        self.lens = empty(step.kv_lens, requests, 0)
        # as a graph is captured: every request as long as can be, over block 0
        self.lens += step.max_len
        self.starts = torch.arange(requests + 1, dtype=torch.int32, device=step.q.device)

    def fill(self, step: Step) -> None:
        """Put a batch at the beginning; what is behind it is padding."""
        given = (step.q, step.keys, step.values, step.slots, step.block_table, step.kv_lens)
        for buffer, found in zip(
            (self.q, self.keys, self.values, self.slots, self.table, self.lens), given, strict=True
        ):
            buffer[: len(found)] = found
        self.lens[len(step.kv_lens) :] = 0
        self.starts[: len(step.qo_indptr)] = step.qo_indptr
        self.starts[len(step.qo_indptr) :] = step.qo_indptr[-1]

    def common(self, requests: int, tokens: int, step: Step) -> Any:
        """Return the metadata that the runner gives to every builder."""
        kind = importlib.import_module(BACKEND).CommonAttentionMetadata
        lens = [int(one) for one in self.lens]
        named = {
            "query_start_loc": self.starts,
            "query_start_loc_cpu": self.starts.cpu(),
            "seq_lens": self.lens,
            "num_reqs": requests,
            "num_actual_tokens": tokens,
            "max_query_len": max(1, *step.case.batch.query_lens),
            "max_seq_len": max(lens),
            "block_table_tensor": self.table,
            "slot_mapping": self.slots,
            "causal": step.case.problem.causal,
        }
        known = {one.name for one in fields(kind)}
        return kind(**{name: value for name, value in named.items() if name in known})


def _support(builder: Any) -> str:
    return str(getattr(getattr(builder, "_cudagraph_support", None), "name", "NEVER"))


def _cache(plugin: Any, step: Step) -> torch.Tensor:
    """Return the cache in the plugin's form; raises ``UsageError`` for one that is not known."""
    k, v = step.k, step.v
    pages, size, heads, head_dim = k.shape
    shape = getattr(plugin, "get_kv_cache_shape", None)
    if shape is None:
        return torch.cat([k, v], dim=-1).transpose(1, 2)
    wanted = tuple(shape(pages, size, heads, head_dim))
    for axis in (0, 1):
        cache = torch.stack([k, v], dim=axis)
        if tuple(cache.shape) == wanted:
            return cache
    raise UsageError(f"get_kv_cache_shape: {wanted} is none of the forms of vLLM that are known")


def _read_back(cache: torch.Tensor, step: Step) -> None:
    """Take what the plugin wrote."""
    if cache.ndim == 4:
        k, v = cache.transpose(1, 2).chunk(2, dim=-1)
    else:
        k, v = cache.unbind(0 if cache.shape[0] == 2 and cache.shape[1] == step.k.shape[0] else 1)
    step.k.copy_(k)
    step.v.copy_(v)


def _config(step: Step) -> SimpleNamespace:
    """What builders ask of the engine's configuration."""
    problem = step.case.problem
    model = SimpleNamespace(
        dtype=step.q.dtype,
        max_model_len=step.max_len,
        get_num_attention_heads=lambda parallel: problem.num_qo_heads,
        get_num_kv_heads=lambda parallel: problem.num_kv_heads,
        get_head_size=lambda: problem.head_dim,
    )
    return SimpleNamespace(
        model_config=model,
        cache_config=SimpleNamespace(block_size=problem.page_size, cache_dtype="auto"),
        parallel_config=SimpleNamespace(tensor_parallel_size=1, decode_context_parallel_size=1),
        scheduler_config=SimpleNamespace(max_num_seqs=max(CAPTURED_SIZES), max_num_batched_tokens=8192),
        compilation_config=SimpleNamespace(
            cudagraph_capture_sizes=list(CAPTURED_SIZES),
            max_cudagraph_capture_size=max(CAPTURED_SIZES),
            static_forward_context={},
        ),
        speculative_config=None,
    )
