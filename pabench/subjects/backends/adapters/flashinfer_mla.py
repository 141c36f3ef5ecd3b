# SPDX-License-Identifier: Apache-2.0
"""FlashInfer's attention over latent caches on devices that run PTX; see ``flashinfer_ptx`` for how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Any

import numpy as np

from pabench.device.base import Launch
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.adapters.flashinfer import MLA_DIMS, FlashInferMlaBackend
from pabench.subjects.backends.adapters.flashinfer_compiled import CompiledFlashInfer, PtxPlan
from pabench.subjects.backends.adapters.flashinfer_works import Merge, plan_works
from pabench.subjects.backends.validate import check_attention

BLOCKS = 8
"""That wait for each other, as its host function has one for each multiprocessor."""
BLOCK = (32, 4, 2)
HELD = ("q", "k", "parts", "part_lse", "out", "lse", "block_table", "works", "merges", "work_starts")
"""The arrays that the structure of parameters points to, in the order of ``fill``."""


def columns(rows: Sequence[Any], width: int) -> np.ndarray[Any, Any]:
    """Return the fields of dataclasses side by side, ``(width, rows) int32``."""
    return np.array([astuple(one) for one in rows], np.int32).reshape(len(rows), width).T


class FlashInferPtxMlaBackend(CompiledFlashInfer):
    """``BatchMLAPagedAttentionKernel`` (FA2), which merges split keys once all its blocks are there."""

    name = FlashInferMlaBackend.name
    capabilities = FlashInferMlaBackend.capabilities
    profile = replace(FlashInferMlaBackend.profile, lse_base="2")

    def plan(self, tensors: Tensors) -> PtxPlan:
        """Upload, plan, and prepare the launch."""
        check_attention(self.name, self.capabilities, tensors)
        device, problem, batch = self._device, tensors.case.problem, tensors.case.batch
        rows, heads = tensors.q.shape[:2]
        halves, floats = problem.storage.storage, np.dtype(np.float32)
        out = device.empty((rows, heads, MLA_DIMS[0]), halves)
        lse = device.empty((rows, heads), floats)
        if not rows:
            return PtxPlan(launches=(), out=out, lse=lse)
        pool = tensors.pool.with_storage(device.to_device(tensors.pool.storage))
        q = device.to_device(tensors.q)
        self.check_addresses(q=q, k=pool.k)
        table = tensors.layout.to_csr(tensors.kv_lens.tolist())
        plan = plan_works(
            list(batch.kv_lens),
            list(batch.query_lens),
            table.indptr[:-1].tolist(),
            heads=heads,
            causal=problem.causal,
            blocks=BLOCKS,
        )
        works = [one for group in plan.works for one in group]
        merges = plan.merges + [Merge()] * (BLOCKS - len(plan.merges))
        parts = device.empty((max(1, plan.parts), MLA_DIMS[0]), halves)
        arrays = [
            *(q, pool.k, parts, device.empty((max(1, plan.parts),), floats), out, lse),
            self.ints(np.append(table.indices, np.int32(0))),
            self.ints(columns(works, 8)),
            self.ints(columns(merges, 5)),
            self.ints(np.cumsum([0, *map(len, plan.works)])),
        ]
        page, token, _ = pool.element_strides
        numbers = [np.int32(n) for n in (len(works), BLOCKS, heads, problem.page_size)]
        module, (entry,) = self.load(
            "mla",
            problem.dtype,
            MLA_DIMS[0],
            CAUSAL=problem.causal,
            SHARED_PER_SM=device.limits.shared_bytes_per_sm,
        )
        arguments = [*arrays, *numbers, np.int64(page), np.int64(token), np.float32(problem.scale)]
        filled, (shared, *_) = self.filled(module, arguments)
        launch = Launch(
            entry=entry,
            grid=(plan.across, BLOCKS // plan.across, 1),
            block=BLOCK,
            shared_bytes=shared,
            args=(filled,),
            held=dict(zip(HELD, arrays, strict=True)),
        )
        return PtxPlan(launches=((module, launch),), out=out, lse=lse)
