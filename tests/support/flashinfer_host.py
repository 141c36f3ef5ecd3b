# SPDX-License-Identifier: Apache-2.0
"""FlashInfer's Python interface as far as reports call it: its compiled kernels, on a device that runs PTX.

The package's own asks a GPU what it is and loads what nvcc linked for it.  Tensors are those of torch in the
memory of the host.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch

from pabench.device.base import Device
from pabench.problem import Batch, Case, Problem
from pabench.problem.layout import CsrTable, layout_from_csr
from pabench.problem.pool import KvPool
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.adapters.flashinfer_ptx import (
    FlashInferPtxBackend,
    FlashInferPtxDecodeBackend,
)


class _Wrapper:
    """A wrapper of the package: ``plan`` for a batch, then ``run`` with queries and a cache."""

    def __init__(self, backend: Any, kv_layout: str = "NHD") -> None:
        self._backend = backend
        self._kv_layout = kv_layout

    def plan(
        self,
        *pages: Any,
        causal: bool = False,
        window_left: int = -1,
        sm_scale: float | None = None,
        q_data_type: torch.dtype = torch.float16,
    ) -> None:
        """Keep what is asked; prefill's has offsets of query rows first."""
        *rows, indptr, indices, last = (one.numpy() for one in pages if isinstance(one, torch.Tensor))
        heads, kv_heads, head_dim, page_size = pages[-4:]
        self._problem = Problem(
            num_qo_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            page_size=page_size,
            dtype=str(q_data_type).removeprefix("torch."),
            causal=causal or not rows,
            sm_scale=sm_scale,
            window=None if window_left < 0 else window_left + 1,
        )
        self._rows = rows[0] if rows else np.arange(len(last) + 1, dtype=np.int32)
        self._table = CsrTable(indptr=indptr, indices=indices, last_page_len=last)

    def run(
        self, q: torch.Tensor, cache: torch.Tensor, return_lse: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return output and, where asked, LSE in base 2; ``cache`` has K and V of a page side by side."""
        problem = self._problem
        layout, kv_lens = layout_from_csr(self._table, page_size=problem.page_size, num_pages=cache.shape[0])
        batch = Batch(kv_lens=kv_lens, q_lens=tuple(np.diff(self._rows).tolist()))
        plan = self._backend.plan(
            Tensors(
                case=Case(problem=problem, batch=batch, kv_layout=self._kv_layout, interleaved=True),
                q=q.numpy(),
                pool=KvPool(storage=cache.numpy(), kv_layout=self._kv_layout, interleaved=True),
                layout=layout,
                kv_lens=np.asarray(kv_lens, np.int32),
                qo_indptr=self._rows,
            )
        )
        self._backend.run(plan)
        given = self._backend.fetch(plan)
        out, lse = torch.from_numpy(given.out), torch.from_numpy(given.lse)
        return (out, lse) if return_lse else out


def flashinfer_host(device: Device) -> ModuleType:
    """Return a module ``flashinfer`` that runs on ``device``."""
    module = ModuleType("flashinfer")
    prefill = FlashInferPtxBackend(device)

    def merge_states(v: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outs, lses = (np.ascontiguousarray(one.transpose(0, 1).numpy()) for one in (v, s))
        given = prefill.merge_states(outs, lses, str(v.dtype).removeprefix("torch."))
        return torch.from_numpy(given.out), torch.from_numpy(given.lse)

    def wrapping(backend: Any) -> Callable[..., _Wrapper]:
        return lambda workspace, kv_layout="NHD", **options: _Wrapper(backend, kv_layout)

    given = {
        "merge_states": merge_states,
        "BatchPrefillWithPagedKVCacheWrapper": wrapping(prefill),
        "BatchDecodeWithPagedKVCacheWrapper": wrapping(FlashInferPtxDecodeBackend(device)),
    }
    vars(module).update(given)
    return module
