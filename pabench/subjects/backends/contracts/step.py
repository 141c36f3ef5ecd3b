# SPDX-License-Identifier: Apache-2.0
"""A step of a server over a case: new tokens come as rows, the rest lies in the cache, page 0 is nobody's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pabench.problem.case import Case
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.adapters.paged_tensors import paged_tensors, token_slots
from pabench.subjects.backends.contracts.metadata import BrokenContract

CAPTURED_SIZES: tuple[int, ...] = (1, 2, 4, *range(8, 513, 8))
"""Batches that graphs are captured for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """What an engine hands to an attention plugin, as torch tensors.

    Attributes:
        case: asked.
        q: ``(rows, num_qo_heads, head_dim)``.
        keys, values: ``(rows, num_kv_heads, head_dim)``, those of the new tokens.
        slots: ``(rows,) int64``, where they belong: page * page_size + offset.
        k, v: ``(num_pages + 1, page_size, num_kv_heads, head_dim)``; page 0 and the slots of new tokens are
            NaN.
        wanted: ``k`` and ``v`` as they must be afterwards.
        block_table: ``(num_seqs, max_pages) int32``; entries past the end name some page.
        kv_lens: ``(num_seqs,) int32``, new tokens included.
        qo_indptr: ``(num_seqs + 1,) int32``.
    """

    case: Case
    q: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    slots: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    wanted: tuple[torch.Tensor, torch.Tensor]
    block_table: torch.Tensor
    kv_lens: torch.Tensor
    qo_indptr: torch.Tensor

    @property
    def max_len(self) -> int:
        """Tokens that a row of the block table has pages for."""
        pages: int = self.block_table.shape[1]
        return max(1, pages) * self.case.problem.page_size

    @property
    def padded(self) -> int:
        """Sequences of the smallest captured batch that leaves a row of padding."""
        return next(size for size in CAPTURED_SIZES if size > self.case.batch.num_seqs)

    def check_cache(self, *, first_page: int = 0) -> None:
        """Raise ``BrokenContract`` where the cache is not what it must be after the new tokens."""
        slots = set(self.slots.tolist())
        for name, cache, wanted in (("K", self.k, self.wanted[0]), ("V", self.v, self.wanted[1])):
            wrong = (_bits(cache) != _bits(wanted)).flatten(2).any(2)
            wrong[:first_page] = False
            if wrong.any():
                page, offset = (int(one) for one in torch.nonzero(wrong)[0])
                slot = page * cache.shape[1] + offset
                said = "is not written right" if slot in slots else "holds no new token and was changed"
                raise BrokenContract(f"cache: {name} of slot {slot} (page {page}) {said}")


def why_not_served(case: Case) -> str | None:
    """Return why no server makes a call like ``case``, or None."""
    lens = zip(case.batch.query_lens, case.batch.kv_lens, strict=True)
    if any(rows > keys for rows, keys in lens):
        return "each query row brings its own key, so no more rows than keys"
    return None


def step_of(tensors: Tensors, where: torch.device) -> Step:
    """Upload a case whose tensors agree with it, with a page in front that belongs to nobody."""
    there, case = paged_tensors(tensors, where), tensors.case
    size, batch = case.problem.page_size, case.batch
    new = [
        token_slots(tensors, i, kv_len - rows, kv_len)
        for i, (rows, kv_len) in enumerate(zip(batch.query_lens, batch.kv_lens, strict=True))
    ]
    slots = torch.from_numpy(np.concatenate(new).astype(np.int64)).to(where) + size
    wanted = tuple(_behind_a_page(cache) for cache in (there.k, there.v))
    caches = tuple(cache.clone() for cache in wanted)
    for cache in caches:
        cache.flatten(0, 1)[slots] = torch.nan
    pages = max(1, tensors.layout.num_pages)
    # the tables of engines hold ids of pages once used, never others
    table = torch.from_numpy(np.asarray(tensors.layout.block_table, np.int64)).to(where) % pages + 1
    return Step(
        case=case,
        q=there.q,
        keys=wanted[0].flatten(0, 1)[slots],
        values=wanted[1].flatten(0, 1)[slots],
        slots=slots,
        k=caches[0],
        v=caches[1],
        wanted=(wanted[0], wanted[1]),
        block_table=table.to(torch.int32),
        kv_lens=there.kv_lens,
        qo_indptr=there.qo_indptr,
    )


def _behind_a_page(cache: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.full_like(cache[:1], torch.nan), cache])


def _bits(cache: torch.Tensor) -> torch.Tensor:
    return cache.view({2: torch.int16, 4: torch.int32}[cache.element_size()])
