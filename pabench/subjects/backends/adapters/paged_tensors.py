# SPDX-License-Identifier: Apache-2.0
"""What adapters on torch tensors share: the arrays of a case where a kernel wants them, and the output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput
from pabench.subjects.backends.torch_tensors import to_numpy, upload


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PagedTensors:
    """The arrays of one case on a torch device.

    Attributes:
        q: ``(num_tokens, num_qo_heads, head_dim)``.
        k, v: ``(num_pages, page_size, num_kv_heads, head_dim)`` whatever the layout, by strides; float8 for
            a cache of e4m3.
        block_table: ``(num_seqs, max_pages + spare) int32``; entries in spare columns are 0.
        kv_lens: ``(num_seqs,) int32``.
        qo_indptr: ``(num_seqs + 1,) int32``.
        out: ``q``'s shape and type, NaN until written.
        lse: ``(num_tokens, num_qo_heads) float32``, NaN until written.
    """

    case: Case
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    block_table: torch.Tensor
    kv_lens: torch.Tensor
    qo_indptr: torch.Tensor
    out: torch.Tensor
    lse: torch.Tensor

    @property
    def problem(self) -> Problem:
        """The problem of the case."""
        return self.case.problem

    def output(self, *, lse: bool) -> AttentionOutput:
        """Return what has been written, on the host."""
        return AttentionOutput(out=to_numpy(self.out), lse=to_numpy(self.lse) if lse else None)

    def heads(self, numbers: tuple[float, ...] | None) -> torch.Tensor | None:
        """Return a number for each query head as float32 on the device, or None."""
        return None if numbers is None else torch.tensor(numbers, dtype=torch.float32, device=self.q.device)

    def scale(self, kind: str) -> torch.Tensor:
        """Return the one scale of keys (``k``) or values (``v``), ``(1,) float32``."""
        numbers = self.problem.kv_scales(kind)[:1]
        return torch.tensor(numbers, dtype=torch.float32, device=self.q.device)


def paged_tensors(tensors: Tensors, where: torch.device, *, spare: int = 0) -> PagedTensors:
    """Upload ``tensors``, whose agreement with their case was checked.

    Args:
        tensors: on the host.
        where: torch's device.
        spare: columns to add to the block table, for kernels that read entries behind it and use none.
    """
    case = tensors.case
    problem = case.problem
    q = upload(tensors.q, problem.dtype, where)
    pool = tensors.pool.with_storage(upload(tensors.pool.storage, problem.kv_dtype or problem.dtype, where))
    k, v = (by_token(pool, view) for view in (pool.k, pool.v))
    if problem.kv_dtype is not None:
        k, v = (view.view(torch.float8_e4m3fn) for view in (k, v))
    table = np.pad(tensors.layout.block_table, ((0, 0), (0, spare)))
    return PagedTensors(
        case=case,
        q=q,
        k=k,
        v=v,
        block_table=torch.from_numpy(table).to(where),
        kv_lens=torch.from_numpy(tensors.kv_lens).to(where),
        qo_indptr=torch.from_numpy(tensors.qo_indptr).to(where),
        out=torch.full_like(q, torch.nan),
        lse=torch.full(q.shape[:2], torch.nan, dtype=torch.float32, device=where),
    )


def by_token(pool: KvPool, view: torch.Tensor) -> torch.Tensor:
    """Return keys or values of a pool of torch's as ``(num_pages, page_size, num_kv_heads, head_dim)``."""
    return view if pool.kv_layout == "NHD" else view.transpose(1, 2)


def token_slots(tensors: Tensors, sequence: int, first: int, end: int) -> Array:
    """Return the slots of tokens ``first`` to ``end`` of a sequence, int64."""
    page_size = tensors.layout.page_size
    tokens = np.arange(first, max(first, end), dtype=np.int64)
    pages = tensors.layout.pages(sequence, end).astype(np.int64)
    return pages[tokens // page_size] * page_size + tokens % page_size


def why_not_one_scale(case: Case) -> str | None:
    """Return why kernels with one scale of the cache for all heads cannot take ``case``, or None."""
    for field in ("k_scale", "v_scale"):
        scales = getattr(case.problem, field)
        if scales is not None and len(set(scales)) > 1:
            return f"{field} must be one number for all heads"
    return None
