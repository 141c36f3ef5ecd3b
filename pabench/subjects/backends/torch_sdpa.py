# SPDX-License-Identifier: Apache-2.0
"""The first outsider: gather the pages, then let PyTorch's scaled dot product attention do the rest.

What that function has no argument for (soft cap, float32 biases, sinks, an e4m3 cache) is written out in
float32.

It launches nothing through a pabench device: it runs on CPU tensors, and on CUDA tensors when the device is
``cuda``.  PyTorch's function takes no block table, so the gather is part of ``run``; and it returns no
log-sum-exp, so that is a second pass over the keys in float32.  Both are costs of this route, and timed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from pabench.device.base import Device
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.problem.problem import FEATURES, Problem
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.torch_place import torch_place
from pabench.subjects.backends.torch_tensors import TORCH_DTYPES, to_numpy, upload
from pabench.subjects.backends.validate import check_append, check_attention

WRITTEN_OUT = frozenset({"soft-cap", "alibi", "sinks", "fp8-kv"})
"""Features for which the second product is ours; a bias could go into the mask, but only in 16 bits."""
_HAS_GQA = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 5)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sequence:
    """One sequence that has keys and rows that see them.

    Attributes:
        first_row, end_row: its rows of ``q`` that see at least one key; rows before them see nothing.
        position: place of its first such row among the keys.
        first_key: first key that any row sees; those before it are not gathered.
        kv_len: tokens in the cache.
        full_pages: int64, physical pages whose every slot is in use, from that of ``first_key`` on.
        last_page: physical page that is filled in part, or -1.
        last_fill: tokens in it.
    """

    first_row: int
    end_row: int
    position: int
    first_key: int
    kv_len: int
    full_pages: torch.Tensor
    last_page: int
    last_fill: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SdpaPlan:
    """Uploaded tensors and the pages of each sequence; ``out`` and ``lse`` are written by ``run``."""

    problem: Problem
    q: torch.Tensor
    pool: KvPool
    sequences: tuple[_Sequence, ...]
    out: torch.Tensor
    lse: torch.Tensor


class TorchSdpaBackend:
    """``torch.nn.functional.scaled_dot_product_attention`` over gathered pages."""

    name = "torch-sdpa"
    takes_resident = True
    capabilities = Capabilities(
        dtypes=frozenset(TORCH_DTYPES),
        operations=frozenset({"decode", "speculative", "prefill", "append"}),
        features=frozenset(FEATURES),
    )
    # The fused kernels of PyTorch round the softmax weights to the storage type before the second product
    # and sum in float32; on the CPU too.
    profile = NumericsProfile(p_dtype="storage", partial_dtype="float32", kv_dtype=None)

    def __init__(self, device: Device) -> None:
        """Choose where the tensors live.

        Raises:
            EnvironmentRefused: the device is ``cuda`` and this PyTorch has no CUDA.
        """
        self._where = torch_place(self.name, device)
        self.on_host = self._where.type == "cpu"

    def plan(self, tensors: Tensors) -> SdpaPlan:
        """Upload ``tensors`` and read the block table.

        Raises:
            InvalidCase: the arrays do not agree with the case, or the table names pages outside the pool.
            Unsupported: the case is outside the declared capabilities.
        """
        check_attention(self.name, self.capabilities, tensors)
        problem = tensors.case.problem
        kv_lens = [int(n) for n in tensors.kv_lens]
        q = upload(tensors.q, problem.dtype, self._where)
        storage = upload(tensors.pool.storage, problem.kv_dtype or problem.dtype, self._where)
        return SdpaPlan(
            problem=problem,
            q=q,
            pool=tensors.pool.with_storage(storage),
            sequences=self._sequences(tensors, kv_lens),
            out=torch.empty_like(q),
            lse=torch.empty(q.shape[:2], dtype=torch.float32, device=self._where),
        )

    def run(self, plan: SdpaPlan) -> None:
        """Gather, attend and compute the log-sum-exp, one sequence after another."""
        problem = plan.problem
        plan.out.zero_()
        plan.lse.fill_(-torch.inf)
        if problem.sinks is not None:  # all that a row without a key has
            plan.lse[:] = torch.tensor(problem.sinks, device=self._where)
        for sequence in plan.sequences:
            rows = slice(sequence.first_row, sequence.end_row)
            keys, values = (_gather(plan, kind, sequence) for kind in "kv")
            q = plan.q[rows].transpose(0, 1)
            mask = _mask(problem, sequence, self._where)
            logits = _logits(problem, q, keys, sequence)
            if mask is not None:
                logits = logits.masked_fill(~mask, -torch.inf)
            if problem.sinks is not None:
                sinks = torch.tensor(problem.sinks, device=self._where)[:, None, None]
                logits = torch.cat([logits, sinks.expand(-1, logits.shape[1], 1)], dim=2)
            if problem.features & WRITTEN_OUT:
                out = _weigh(problem, torch.softmax(logits, dim=2)[:, :, : keys.shape[1]], values)
            else:
                out = _attend(problem, q, keys, values, mask)
            plan.out[rows] = out.transpose(0, 1).to(plan.out.dtype)
            plan.lse[rows] = torch.logsumexp(logits, dim=2).transpose(0, 1)

    def outputs(self, plan: SdpaPlan) -> tuple[torch.Tensor, ...]:
        """Return output and LSE."""
        return plan.out, plan.lse

    def fetch(self, plan: SdpaPlan) -> AttentionOutput:
        """Return the output in the storage type of the case, and the float32 natural-log LSE."""
        return AttentionOutput(out=to_numpy(plan.out), lse=plan.lse.cpu().numpy().copy())

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Write tokens into a copy of the cache; see ``Backend.append``.

        Raises:
            InvalidCase: a shape or type that does not fit the pool, or a slot outside it or named twice.
        """
        page_size = check_append(pool, keys, values, slot_mapping, dtype)
        slots = np.asarray(slot_mapping).astype(np.int64)
        # A copy of bits: integers of the same width, so that no NaN payload can change on the way.
        bits = np.dtype(f"i{pool.storage.dtype.itemsize}")
        copy = torch.from_numpy(np.array(pool.storage, order="C").view(bits)).to(self._where)
        written = pool.with_storage(copy)
        kept = slots >= 0
        page = torch.from_numpy(slots[kept] // page_size).to(self._where)
        offset = torch.from_numpy(slots[kept] % page_size).to(self._where)
        for view, rows in ((written.k, keys), (written.v, values)):
            source = torch.from_numpy(np.ascontiguousarray(rows[kept]).view(bits)).to(self._where)
            if pool.kv_layout == "NHD":
                view[page, offset] = source
            else:
                view[page, :, offset] = source
        result: Array = copy.cpu().numpy().view(pool.storage.dtype)
        return result

    def _sequences(self, tensors: Tensors, kv_lens: list[int]) -> tuple[_Sequence, ...]:
        problem, page_size = tensors.case.problem, tensors.layout.page_size
        sequences = []
        for i, kv_len in enumerate(kv_lens):
            first, end = int(tensors.qo_indptr[i]), int(tensors.qo_indptr[i + 1])
            position = kv_len - (end - first)
            if (
                problem.causal
            ):  # aligned at the bottom right: with more rows than keys, the first rows see nothing
                first = max(first, end - kv_len)
                position = max(0, position)
            if kv_len == 0 or first == end:
                continue
            first_key = 0 if problem.window is None else max(0, position - problem.window + 1)
            pages = torch.from_numpy(tensors.layout.pages(i, kv_len).astype(np.int64))
            full = kv_len // page_size
            sequences.append(
                _Sequence(
                    first_row=first,
                    end_row=end,
                    position=position,
                    first_key=first_key,
                    kv_len=kv_len,
                    full_pages=pages[first_key // page_size : full].to(self._where),
                    last_page=int(pages[full]) if kv_len % page_size else -1,
                    last_fill=kv_len % page_size,
                )
            )
        return tuple(sequences)


def _gather(plan: SdpaPlan, kind: str, sequence: _Sequence) -> torch.Tensor:
    """Return keys or values ``(num_kv_heads, n, head_dim)`` from ``first_key`` on; other slots are not used.

    A cache of another type comes as float32, scales applied.
    """
    pool, problem = plan.pool, plan.problem
    view = pool.k if kind == "k" else pool.v
    pages = view.index_select(0, sequence.full_pages)
    if pool.kv_layout == "HND":
        pages = pages.transpose(1, 2)
    parts = [pages.flatten(0, 1)]
    if sequence.last_fill:
        last = view[sequence.last_page]
        tokens = last if pool.kv_layout == "NHD" else last.transpose(0, 1)
        parts.append(tokens[: sequence.last_fill])
    found = torch.cat(parts)[sequence.first_key % problem.page_size :]
    if problem.kv_dtype is not None:
        scales = torch.tensor(problem.kv_scales(kind), device=found.device)
        found = found.view(torch.float8_e4m3fn).float() * scales[:, None]
    return found.transpose(0, 1)


def _mask(problem: Problem, sequence: _Sequence, where: torch.device) -> torch.Tensor | None:
    """Return ``(rows, keys)``, true where a key is seen; None when every key is.

    PyTorch's own ``is_causal`` aligns at the top left, which is another mask unless both lengths agree.
    """
    if sequence.end_row - sequence.first_row == 1 or not (problem.causal or problem.window):
        return None  # the keys of a single row begin and end where it sees them
    distance = -_distance(sequence, where)
    seen = torch.ones_like(distance, dtype=torch.bool)
    if problem.causal:
        seen &= distance >= 0
    if problem.window is not None:
        seen &= distance < problem.window
    return seen


def _distance(sequence: _Sequence, where: torch.device) -> torch.Tensor:
    """Return key position minus query position, ``(rows, keys)``."""
    rows = sequence.position + torch.arange(sequence.end_row - sequence.first_row, device=where)
    return torch.arange(sequence.first_key, sequence.kv_len, device=where) - rows[:, None]


def _attend(
    problem: Problem, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    options: dict[str, Any] = {"attn_mask": mask, "scale": problem.scale}
    if problem.group_size > 1:
        if _HAS_GQA:
            options["enable_gqa"] = True
        else:
            keys = keys.repeat_interleave(problem.group_size, 0)
            values = values.repeat_interleave(problem.group_size, 0)
    return functional.scaled_dot_product_attention(q[None], keys[None], values[None], **options)[0]


def _logits(problem: Problem, q: torch.Tensor, keys: torch.Tensor, sequence: _Sequence) -> torch.Tensor:
    """Return the logits ``(num_qo_heads, rows, keys)`` in float32, capped and biased but not masked."""
    rows = q.shape[1]
    grouped = q.float().reshape(problem.num_kv_heads, problem.group_size * rows, problem.head_dim)
    logits = torch.matmul(grouped, keys.float().transpose(1, 2)) * problem.scale
    logits = logits.reshape(problem.num_qo_heads, rows, -1)
    if problem.soft_cap is not None:
        logits = torch.tanh(logits / problem.soft_cap) * problem.soft_cap
    if problem.alibi_slopes is not None:
        slopes = torch.tensor(problem.alibi_slopes, device=q.device)[:, None, None]
        logits = logits + slopes * _distance(sequence, q.device)
    return logits


def _weigh(problem: Problem, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return ``weights (num_qo_heads, rows, keys)`` times values: ``(num_qo_heads, rows, head_dim)``."""
    heads, rows, keys = weights.shape
    grouped = weights.reshape(problem.num_kv_heads, problem.group_size * rows, keys)
    return torch.matmul(grouped, values.float()).reshape(heads, rows, problem.head_dim)
