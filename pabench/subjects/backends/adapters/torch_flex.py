# SPDX-License-Identifier: Apache-2.0
"""FlexAttention over pages: torch's experimental ``PagedAttention`` makes a block mask one over the pool.

Conventions: keys and values are one row of pages, ``(1, num_kv_heads, num_pages * page_size, head_dim)``;
queries are padded to ``(num_seqs, num_qo_heads, rows, head_dim)``; mask and score functions see the logical
key, and those written here align at the bottom right; scale is an argument; LSE is the natural logarithm; a
page is a block of the mask.

Without a GPU ``flex_attention`` runs as it does when nobody compiles it: every slot of the pool is scored
against every query row in float32, and the mask comes afterwards.  With one it is compiled, and the block
mask leads it to the pages that are seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pabench.device.base import Device
from pabench.problem.case import Case
from pabench.problem.layout import pages_needed
from pabench.problem.problem import Problem
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.adapters.table import TORCH
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.torch_place import torch_place
from pabench.subjects.backends.torch_tensors import TORCH_DTYPES, to_numpy, upload
from pabench.subjects.backends.validate import check_attention

QUERY_BLOCK = 128
MAX_EAGER_BYTES = 2**28
"""What the float32 copies of the keys, or the scores, may take where every slot of the pool is scored."""
Mod = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlexPlan:
    """Converted tensors and masks; ``run`` fills ``found``.

    Attributes:
        q: ``(num_seqs, num_qo_heads, rows, head_dim)``, zero where a sequence has fewer rows.
        k, v: ``(1, num_kv_heads, num_pages * page_size, head_dim)``.
        mask: physical block mask, or None when there is no query row.
        found: output and LSE of ``q``'s shape, after ``run``.
        rows: sequence and row within it, of every row of the case's queries.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: Any
    score_mod: Mod
    scale: float
    found: dict[str, torch.Tensor]
    rows: tuple[torch.Tensor, torch.Tensor]


class TorchFlexBackend:
    """``flex_attention`` with a block mask and a score function from ``PagedAttention``."""

    name = "torch-flex"
    # The softmax is in float32; its weights are rounded to the storage type before they meet the values,
    # compiled or not.
    profile = NumericsProfile(p_dtype="storage", partial_dtype="float32", kv_dtype=None)

    def __init__(self, device: Device) -> None:
        """Import the module and choose where the tensors live.

        Raises:
            Unsupported: this torch is too old, or fails to import it.
            EnvironmentRefused: the device is ``cuda`` and this torch has no CUDA.
        """
        modules = TORCH.load()
        self._flex, self._paged = (modules[name] for name in TORCH.modules)
        self._where = torch_place(self.name, device)
        self.on_host = self._where.type == "cpu"
        self.mode = "native" if self._where.type == "cuda" else "eager"
        self.capabilities = Capabilities(
            dtypes=frozenset(TORCH_DTYPES),
            operations=frozenset({"decode", "speculative", "prefill"}),
            features=frozenset({"soft-cap", "window", "alibi", "non-causal"}),
            rule=_eager_rule if self.mode == "eager" else _compiled_rule,
        )
        self._attend = self._flex.flex_attention
        if self.mode == "native":
            self._attend = torch.compile(self._flex.flex_attention, dynamic=False)

    def plan(self, tensors: Tensors) -> FlexPlan:
        """Pad the queries, flatten the pool, and make masks of table and lengths.

        Raises:
            InvalidCase: the arrays do not agree with the case, or the table names pages outside the pool.
            Unsupported: the case is outside the declared capabilities.
        """
        check_attention(self.name, self.capabilities, tensors)
        case = tensors.case
        problem, q_lens = case.problem, case.batch.query_lens
        sequence = np.repeat(np.arange(len(q_lens)), q_lens)
        place = np.arange(len(sequence)) - np.asarray(tensors.qo_indptr)[sequence]
        rows = torch.from_numpy(sequence).to(self._where), torch.from_numpy(place).to(self._where)
        given = upload(tensors.q, problem.dtype, self._where)
        shape = (len(q_lens), problem.num_qo_heads, max(q_lens), problem.head_dim)
        q = given.new_zeros(shape)
        q[rows[0], :, rows[1]] = given
        pool = tensors.pool.with_storage(upload(tensors.pool.storage, problem.dtype, self._where))
        head_axis = 2 if pool.kv_layout == "NHD" else 1
        k, v = (view.movedim(head_axis, 0).flatten(1, 2)[None].contiguous() for view in (pool.k, pool.v))
        kv_lens, ends = _lengths(tensors, self._where)
        paged = self._pages(tensors)
        return FlexPlan(
            q=q,
            k=k,
            v=v,
            mask=self._mask(problem, case, paged, kv_lens, ends) if max(q_lens) and k.shape[2] else None,
            score_mod=paged.get_score_mod(_score_mod(problem, ends, self._where), kv_lens),
            scale=problem.scale,
            found={},
            rows=rows,
        )

    def run(self, plan: FlexPlan) -> None:
        """Call ``flex_attention``."""
        if plan.mask is None:  # no query row, or no page: torch's function takes neither
            plan.found["out"] = torch.zeros_like(plan.q)
            plan.found["lse"] = torch.full(plan.q.shape[:3], -torch.inf, device=self._where)
            return
        wanted = self._flex.AuxRequest(lse=True)
        with _uncompiled(self._flex):
            out, more = self._attend(
                plan.q,
                plan.k,
                plan.v,
                score_mod=plan.score_mod,
                block_mask=plan.mask,
                scale=plan.scale,
                enable_gqa=True,
                return_aux=wanted,
            )
        plan.found["out"], plan.found["lse"] = out, more.lse

    def fetch(self, plan: FlexPlan) -> AttentionOutput:
        """Return the rows that the case asks for; LSE is the natural logarithm, float32."""
        sequence, row = plan.rows
        out, lse = (plan.found[name][sequence, :, row] for name in ("out", "lse"))
        return AttentionOutput(out=to_numpy(out), lse=to_numpy(lse.float()))

    def _pages(self, tensors: Tensors) -> Any:
        """``PagedAttention`` that holds the table of the case; its own allocator is not asked."""
        layout, kv_lens = tensors.layout, tensors.kv_lens.tolist()
        paged = self._paged.PagedAttention(
            max(layout.num_pages, 1), layout.page_size, len(kv_lens), device=str(self._where)
        )
        for i, kv_len in enumerate(kv_lens):
            pages = torch.from_numpy(layout.pages(i, kv_len).astype(np.int64)).to(self._where)
            paged.page_table[i, : len(pages)] = pages
            paged.physical_to_logical[i, pages] = torch.arange(len(pages), device=self._where)
            paged.capacity[i] = len(pages) * layout.page_size
        return paged

    def _mask(
        self, problem: Problem, case: Case, paged: Any, kv_lens: torch.Tensor, ends: torch.Tensor
    ) -> Any:
        columns = max(1, *(pages_needed(n, problem.page_size) for n in case.batch.kv_lens))
        logical = self._flex.create_block_mask(
            _mask_mod(problem, kv_lens, ends, torch.tensor(case.batch.query_lens, device=self._where)),
            case.batch.num_seqs,
            None,
            max(case.batch.query_lens),
            columns * problem.page_size,
            device=str(self._where),
            BLOCK_SIZE=(QUERY_BLOCK, problem.page_size),
        )
        return paged.convert_logical_block_mask(logical, kv_len=kv_lens)


def _lengths(tensors: Tensors, where: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, int64, the KV length of each sequence and the position of its first query row."""
    kv_lens = torch.from_numpy(tensors.kv_lens.astype(np.int64)).to(where)
    q_lens = torch.from_numpy(np.diff(tensors.qo_indptr).astype(np.int64)).to(where)
    return kv_lens, kv_lens - q_lens


def _mask_mod(problem: Problem, kv_lens: torch.Tensor, first: torch.Tensor, q_lens: torch.Tensor) -> Mod:
    """Which logical keys a row sees: bottom right, the window's last key being the row's own position."""

    def sees(b: torch.Tensor, h: torch.Tensor, row: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        position = first[b] + row
        seen = (key < kv_lens[b]) & (row < q_lens[b])
        if problem.causal:
            seen = seen & (key <= position)
        if problem.window is not None:
            seen = seen & (position - key < problem.window)
        return seen

    return sees


def _score_mod(problem: Problem, first: torch.Tensor, where: torch.device) -> Mod | None:
    """Soft cap, then ALiBi; None without either."""
    cap, slopes = problem.soft_cap, problem.alibi_slopes
    if cap is None and slopes is None:
        return None
    slope = torch.tensor(slopes or (0.0,), device=where)

    def changed(
        score: torch.Tensor, b: torch.Tensor, h: torch.Tensor, row: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        if cap is not None:
            score = torch.tanh(score / cap) * cap
        return score if slopes is None else score + slope[h] * (key - (first[b] + row))

    return changed


def _eager_rule(case: Case) -> str | None:
    problem, batch = case.problem, case.batch
    pages = sum(pages_needed(n, problem.page_size) for n in batch.kv_lens) + case.spare_pages
    if case.placement == "high":
        pages += 2**16
    wide = max(problem.head_dim, *batch.query_lens)
    taken = 4 * batch.num_seqs * problem.num_qo_heads * pages * problem.page_size * wide
    if taken > MAX_EAGER_BYTES:
        most = MAX_EAGER_BYTES >> 20
        return f"uncompiled, every slot of the pool is scored, in {taken >> 20} MiB of at most {most}"
    return None


def _compiled_rule(case: Case) -> str | None:
    """The generated kernel takes keys in tiles of up to 128, and a block of the mask holds whole tiles."""
    if case.problem.page_size % QUERY_BLOCK:
        return f"compiled, a page must be a multiple of {QUERY_BLOCK} tokens"
    return None


@contextmanager
def _uncompiled(flex: Any) -> Iterator[None]:
    """Let a call that is not compiled go straight to torch's mathematics, and not be traced for each shape.

    The switch is torch's own, for looking into masks; it changes no operation of the forward pass.
    """
    before = flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG
    flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True
    try:
        yield
    finally:
        flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = before
