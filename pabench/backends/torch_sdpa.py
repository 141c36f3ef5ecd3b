"""The first outsider: gather the pages, then let PyTorch's scaled dot product attention do the rest.

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

from pabench.backends.base import AttentionOutput, Capabilities
from pabench.backends.validate import check_append, check_attention
from pabench.device.base import Device
from pabench.errors import EnvironmentRefused
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.problem.profile import ComputeProfile
from pabench.problem.tensors import Tensors

_TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_HAS_GQA = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 5)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sequence:
    """One sequence that has keys and rows that see them.

    Attributes:
        first_row, end_row: its rows of ``q`` that see at least one key; rows before them see nothing.
        kv_len: tokens in the cache.
        full_pages: int64, physical pages whose every slot is in use.
        last_page: physical page that is filled in part, or -1.
        last_fill: tokens in it.
    """

    first_row: int
    end_row: int
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
    capabilities = Capabilities(
        dtypes=frozenset(_TORCH_DTYPES),
        operations=frozenset({"decode", "speculative", "prefill", "append"}),
    )
    # The fused kernels of PyTorch round the softmax weights to the storage type before the second product
    # and sum in float32; on the CPU too.
    profile = ComputeProfile(p_dtype="storage", partial_dtype="float32", kv_dtype=None)

    def __init__(self, device: Device) -> None:
        """Choose where the tensors live.

        Raises:
            EnvironmentRefused: the device is ``cuda`` and this PyTorch has no CUDA.
        """
        self._where = torch.device("cuda" if device.name == "cuda" else "cpu")
        if self._where.type == "cuda" and not torch.cuda.is_available():
            raise EnvironmentRefused(
                f"backend 'torch-sdpa' on device 'cuda': PyTorch {torch.__version__} finds no CUDA device",
                hint="install a CUDA build of PyTorch",
            )

    def plan(self, tensors: Tensors) -> SdpaPlan:
        """Upload ``tensors`` and read the block table.

        Raises:
            InvalidCase: the arrays do not agree with the case, or the table names pages outside the pool.
            Unsupported: the case is outside the declared capabilities.
        """
        check_attention(self.name, self.capabilities, tensors)
        problem = tensors.case.problem
        kv_lens = [int(n) for n in tensors.kv_lens]
        q = self._upload(tensors.q, problem.dtype)
        storage = self._upload(tensors.pool.storage, problem.dtype)
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
        plan.out.zero_()
        plan.lse.fill_(-torch.inf)
        for sequence in plan.sequences:
            rows = slice(sequence.first_row, sequence.end_row)
            keys = _gather(plan.pool.k, sequence, plan.pool.kv_layout)
            values = _gather(plan.pool.v, sequence, plan.pool.kv_layout)
            q = plan.q[rows].transpose(0, 1)
            mask = _mask(plan.problem, q.shape[1], sequence.kv_len, self._where)
            plan.out[rows] = _attend(plan.problem, q, keys, values, mask).transpose(0, 1)
            plan.lse[rows] = _log_sum_exp(plan.problem, q, keys, mask).transpose(0, 1)

    def fetch(self, plan: SdpaPlan) -> AttentionOutput:
        """Return the output in the storage type of the case, and the float32 natural-log LSE."""
        return AttentionOutput(out=_to_numpy(plan.out), lse=plan.lse.cpu().numpy().copy())

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

    def _upload(self, array: Array, dtype: str) -> torch.Tensor:
        """Return ``array`` on the device; on the CPU it shares the memory, which nothing here writes."""
        array = np.ascontiguousarray(array)
        if dtype == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(self._where)
        return torch.from_numpy(array).to(self._where)

    def _sequences(self, tensors: Tensors, kv_lens: list[int]) -> tuple[_Sequence, ...]:
        page_size, causal = tensors.layout.page_size, tensors.case.problem.causal
        sequences = []
        for i, kv_len in enumerate(kv_lens):
            first, end = int(tensors.qo_indptr[i]), int(tensors.qo_indptr[i + 1])
            if causal:  # aligned at the bottom right: with more rows than keys, the first rows see nothing
                first = max(first, end - kv_len)
            if kv_len == 0 or first == end:
                continue
            pages = torch.from_numpy(tensors.layout.pages(i, kv_len).astype(np.int64))
            full = kv_len // page_size
            sequences.append(
                _Sequence(
                    first_row=first,
                    end_row=end,
                    kv_len=kv_len,
                    full_pages=pages[:full].to(self._where),
                    last_page=int(pages[full]) if kv_len % page_size else -1,
                    last_fill=kv_len % page_size,
                )
            )
        return tuple(sequences)


def _gather(view: torch.Tensor, sequence: _Sequence, kv_layout: str) -> torch.Tensor:
    """Return ``(num_kv_heads, kv_len, head_dim)`` of one sequence; slots past its end are not touched."""
    pages = view.index_select(0, sequence.full_pages)
    if kv_layout == "HND":
        pages = pages.transpose(1, 2)
    parts = [pages.flatten(0, 1)]
    if sequence.last_fill:
        last = view[sequence.last_page]
        tokens = last if kv_layout == "NHD" else last.transpose(0, 1)
        parts.append(tokens[: sequence.last_fill])
    return torch.cat(parts).transpose(0, 1)


def _mask(problem: Problem, rows: int, kv_len: int, where: torch.device) -> torch.Tensor | None:
    """Bottom-right causal mask ``(rows, kv_len)``, true where a key is seen; None when every key is.

    PyTorch's own ``is_causal`` aligns at the top left, which is another mask unless both lengths agree.
    """
    if not problem.causal or rows == 1:
        return None
    return torch.ones(rows, kv_len, dtype=torch.bool, device=where).tril(kv_len - rows)


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


def _log_sum_exp(
    problem: Problem, q: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Natural log-sum-exp ``(num_qo_heads, rows)`` in float32 of the scaled, masked logits."""
    rows = q.shape[1]
    grouped = q.float().reshape(problem.num_kv_heads, problem.group_size * rows, problem.head_dim)
    logits = torch.matmul(grouped, keys.float().transpose(1, 2)) * problem.scale
    logits = logits.reshape(problem.num_qo_heads, rows, -1)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return torch.logsumexp(logits, dim=-1)


def _to_numpy(tensor: torch.Tensor) -> Array:
    host = tensor.cpu()
    if host.dtype == torch.bfloat16:
        return host.view(torch.int16).numpy().view(np.uint16).copy()
    return host.numpy().copy()
