# SPDX-License-Identifier: Apache-2.0
"""An attention backend of SGLang: an object of the model runner that makes metadata and computes layers.

Driven as SGLang 0.5.23's runners do.  The cache is a row of slots, ``req_to_token`` names the slot of each
token of a request, requests lie in rows of their own order, slots of page 0 are for padding.  A padded batch
has requests of ``get_cuda_graph_seq_len_fill_value`` tokens that write to slot 0.  Older plugins
are driven by ``init_forward_metadata_capture_cuda_graph`` and ``init_forward_metadata_replay_cuda_graph``.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from pabench.device.base import Device
from pabench.errors import Unsupported, UsageError
from pabench.problem.case import Case
from pabench.subjects.backends.contracts.metadata import (
    BrokenContract,
    check_addresses,
    check_metadata,
    check_unchanged,
    copies,
)
from pabench.subjects.backends.contracts.offered import offer
from pabench.subjects.backends.contracts.plugin import PluginBackend
from pabench.subjects.backends.contracts.sglang_names import FORWARD_BATCH, MODULES
from pabench.subjects.backends.contracts.step import CAPTURED_SIZES, Step

OLD_CAPTURE = "init_forward_metadata_capture_cuda_graph"
OLD_REPLAY = "init_forward_metadata_replay_cuda_graph"


def prepare() -> None:
    """Make SGLang's names importable."""
    offer(MODULES)


class SglangPlugin(PluginBackend):
    """An ``AttentionBackend`` class of SGLang, or a function of the runner that makes one."""

    engine = "sglang"

    def __init__(self, name: str, plugin: Any, device: Device, *, padded: bool) -> None:
        """See ``PluginBackend``."""
        if not callable(plugin):
            raise UsageError(f"backend {name!r}: must be an AttentionBackend of SGLang, or what makes one")
        super().__init__(name, plugin, device, padded=padded)
        if padded and isinstance(plugin, type) and not _captures(plugin):
            raise Unsupported(f"backend {name!r}: has no init_cuda_graph_state")

    def why_not(self, case: Case) -> str | None:
        """See ``PluginBackend``; a window of one key has no word there."""
        if case.problem.window == 1:
            return "no window of one key, which means none"
        return super().why_not(case)

    def served(self, step: Step) -> SglangBatch:
        """See ``PluginBackend``."""
        problem = step.case.problem
        pool = _Pool(step)
        runner = _runner(step, pool)
        layer = SimpleNamespace(
            layer_id=0,
            tp_q_head_num=problem.num_qo_heads,
            tp_k_head_num=problem.num_kv_heads,
            tp_v_head_num=problem.num_kv_heads,
            head_dim=problem.head_dim,
            qk_head_dim=problem.head_dim,
            v_head_dim=problem.value_dim,
            scaling=problem.scale,
            logit_cap=problem.soft_cap or 0.0,
            sliding_window_size=-1 if problem.window is None else problem.window - 1,
            is_cross_attention=False,
            attn_type=importlib.import_module("sglang.srt.layers.radix_attention").AttentionType.DECODER,
            k_scale=None,
            v_scale=None,
            k_scale_float=None,
            v_scale_float=None,
            xai_temperature_len=-1,
        )
        return SglangBatch(
            step=step, backend=self.plugin(runner), runner=runner, layer=layer, padded=self.padded
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SglangBatch:
    """A batch for one layer."""

    step: Step
    backend: Any
    runner: Any
    layer: Any
    padded: bool

    def run(self) -> torch.Tensor:
        """See ``Served``."""
        step, problem = self.step, self.step.case.problem
        if self.padded:
            batch, q, keys, values, before = self._replayed()
        else:
            batch, q, keys, values = _batch(step, self.runner), step.q, step.keys, step.values
            before = copies(batch)
            self.backend.init_forward_metadata(batch)
            self._check_metadata(batch, before)
        named: dict[str, Any] = {"save_kv_cache": True}
        if problem.sinks is not None:
            named["sinks"] = torch.tensor(problem.sinks, dtype=torch.float32, device=q.device)
        forward = (
            self.backend.forward_decode if batch.forward_mode.is_decode() else self.backend.forward_extend
        )
        flat = q.reshape(len(q), -1)
        out = forward(flat, keys, values, self.layer, batch, **named)
        check_unchanged("forward", batch, before)
        step.check_cache(first_page=1)
        wanted = (len(q), problem.num_qo_heads, problem.value_dim)
        if out.numel() != len(q) * problem.num_qo_heads * problem.value_dim:
            raise BrokenContract(f"forward returned {tuple(out.shape)}, must hold {wanted}")
        found: torch.Tensor = out.reshape(wanted)[: len(step.q)]
        return found

    def _replayed(self) -> Any:
        """Capture over dummies, then bring the metadata to this batch, in place."""
        step, backend, size = self.step, self.backend, self.step.padded
        fill = int(backend.get_cuda_graph_seq_len_fill_value())
        backend.init_cuda_graph_state(max(CAPTURED_SIZES), max(CAPTURED_SIZES))
        batch = _padded_batch(step, self.runner, size, fill)
        old = hasattr(backend, OLD_CAPTURE)
        if old:
            backend.init_forward_metadata_capture_cuda_graph(
                size, size, batch.req_pool_indices, batch.seq_lens, None, batch.forward_mode, None
            )
        else:
            backend.init_forward_metadata_out_graph(batch, in_capture=True)
            backend.init_forward_metadata_in_graph(batch)
        captured = copy.copy(backend.forward_metadata)
        _fill(batch, step, self.runner, fill)
        before = copies(batch)
        if old:
            backend.init_forward_metadata_replay_cuda_graph(
                size,
                batch.req_pool_indices,
                batch.seq_lens,
                batch.seq_lens_sum,
                None,
                batch.forward_mode,
                None,
                batch.seq_lens_cpu,
            )
        else:
            backend.init_forward_metadata_out_graph(batch)
            check_addresses(captured, backend.forward_metadata)
            backend.forward_metadata = captured
            backend.init_forward_metadata_in_graph(batch)
        check_addresses(captured, backend.forward_metadata)
        # a graph has what Python saw when it was captured
        backend.forward_metadata = captured
        self._check_metadata(batch, before)
        rows = [_behind(one, size) for one in (step.q, step.keys, step.values)]
        return batch, *rows, before

    def _check_metadata(self, batch: Any, before: Any) -> None:
        step = self.step
        check_unchanged("init_forward_metadata", batch, before)
        slots = step.k.shape[0] * step.k.shape[1]
        check_metadata(self.backend.forward_metadata, max_len=step.max_len, slots=slots)


class _Pool:
    """The cache of a layer, as ``token_to_kv_pool``: rows of slots."""

    def __init__(self, step: Step) -> None:
        self.k, self.v = step.k.flatten(0, 1), step.v.flatten(0, 1)
        self.page_size = step.case.problem.page_size
        self.size = len(self.k) - self.page_size
        self.dtype = self.store_dtype = self.k.dtype

    def get_key_buffer(self, layer_id: int) -> torch.Tensor:
        """Return ``(slots, num_kv_heads, head_dim)``."""
        return self.k

    def get_value_buffer(self, layer_id: int) -> torch.Tensor:
        """Return ``(slots, num_kv_heads, head_dim)``."""
        return self.v

    def get_kv_buffer(self, layer_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both."""
        return self.k, self.v

    def set_kv_buffer(self, layer: Any, loc: Any, cache_k: Any, cache_v: Any, *scales: Any) -> None:
        """Write new tokens to their slots; ``loc`` is a tensor, or a ``KVWriteLoc``."""
        at = getattr(loc, "loc", loc)
        self.k[at] = cache_k.reshape(-1, *self.k.shape[1:])
        self.v[at] = cache_v.reshape(-1, *self.v.shape[1:])


def _runner(step: Step, pool: _Pool) -> SimpleNamespace:
    """The model runner: requests lie in another order than in the batch, behind a row that is nobody's."""
    problem, device = step.case.problem, step.q.device
    count, size = len(step.block_table), problem.page_size
    tokens = torch.arange(step.max_len, device=device)
    slots = step.block_table.to(torch.int64)[:, tokens // size] * size + tokens % size
    req_to_token = torch.zeros((count + 1, step.max_len), dtype=torch.int32, device=device)
    req_to_token[1:] = slots.flip(0).to(torch.int32)
    heads = problem.num_kv_heads
    model = SimpleNamespace(
        num_attention_heads=problem.num_qo_heads,
        num_key_value_heads=heads,
        get_num_kv_heads=lambda parallel: heads,
        head_dim=problem.head_dim,
        v_head_dim=problem.value_dim,
        context_len=step.max_len,
        is_encoder_decoder=False,
        dtype=step.q.dtype,
    )
    return SimpleNamespace(
        device=device,
        dtype=step.q.dtype,
        kv_cache_dtype=step.k.dtype,
        page_size=size,
        tp_size=1,
        gpu_id=0,
        sliding_window_size=None if problem.window is None else problem.window - 1,
        use_mla_backend=False,
        is_draft_worker=False,
        model_config=model,
        server_args=SimpleNamespace(page_size=size, speculative_num_draft_tokens=None),
        req_to_token_pool=SimpleNamespace(req_to_token=req_to_token, size=count + 1),
        token_to_kv_pool=pool,
        token_to_kv_pool_allocator=SimpleNamespace(page_size=size),
    )


def _batch(step: Step, runner: Any) -> SimpleNamespace:
    """A batch without padding, with the fields of a ``ForwardBatch`` that attention reads."""
    mode = importlib.import_module(FORWARD_BATCH).ForwardMode
    rows = step.qo_indptr.diff()
    prefix = step.kv_lens - rows
    count = len(step.kv_lens)
    return SimpleNamespace(
        forward_mode=mode.DECODE if step.case.batch.is_decode else mode.EXTEND,
        batch_size=count,
        req_pool_indices=torch.arange(count, 0, -1, device=rows.device),
        seq_lens=step.kv_lens.to(torch.int64),
        seq_lens_cpu=step.kv_lens.to(torch.int64).cpu(),
        seq_lens_sum=int(step.kv_lens.sum()),
        out_cache_loc=step.slots.clone(),
        extend_num_tokens=len(step.q),
        extend_seq_lens=rows.clone(),
        extend_prefix_lens=prefix,
        extend_start_loc=step.qo_indptr[:-1].clone(),
        extend_seq_lens_cpu=rows.tolist(),
        extend_prefix_lens_cpu=prefix.tolist(),
        encoder_lens=None,
        encoder_out_cache_loc=None,
        spec_info=None,
        req_to_token_pool=runner.req_to_token_pool,
        token_to_kv_pool=runner.token_to_kv_pool,
    )


def _padded_batch(step: Step, runner: Any, size: int, fill: int) -> SimpleNamespace:
    """The dummies that a graph of ``size`` rows is captured with."""
    batch = _batch(step, runner)
    device = step.q.device
    batch.batch_size = size
    batch.req_pool_indices = torch.zeros(size, dtype=torch.int64, device=device)
    batch.seq_lens = torch.full((size,), fill, dtype=torch.int64, device=device)
    batch.seq_lens_cpu = batch.seq_lens.cpu()
    batch.seq_lens_sum = fill * size
    batch.out_cache_loc = torch.zeros(size, dtype=torch.int64, device=device)
    return batch


def _fill(batch: SimpleNamespace, step: Step, runner: Any, fill: int) -> None:
    """Put the case into the buffers of a captured batch; the rest is padding."""
    real = _batch(step, runner)
    count = real.batch_size
    for name in ("req_pool_indices", "seq_lens", "out_cache_loc"):
        getattr(batch, name)[:count] = getattr(real, name)
    batch.seq_lens_cpu[:count] = real.seq_lens_cpu
    batch.seq_lens_sum = real.seq_lens_sum + fill * (batch.batch_size - count)


def _behind(rows: torch.Tensor, size: int) -> torch.Tensor:
    padding = torch.zeros((size - len(rows), *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
    return torch.cat([rows, padding])


def _captures(plugin: Any) -> bool:
    method = inspect.getattr_static(plugin, "init_cuda_graph_state", None)
    base = importlib.import_module("sglang.srt.layers.attention.base_attn_backend").AttentionBackend
    return method is not None and method is not vars(base).get("init_cuda_graph_state")
