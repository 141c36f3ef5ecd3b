# SPDX-License-Identifier: Apache-2.0
"""FlashInfer's Python interface as far as reports call it: its compiled kernels, on a device that runs PTX.

The package's own asks a GPU what it is and loads what nvcc linked for it.  Tensors are those of torch in the
memory of the host.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from pabench.device.base import Device
from pabench.problem import Batch, Case, Problem
from pabench.problem.layout import CsrTable, layout_from_csr
from pabench.problem.pool import KvPool, pool_parts
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.adapters.flashinfer_mla import FlashInferPtxMlaBackend
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

    def run(self, q: torch.Tensor, cache: torch.Tensor, return_lse: bool = False) -> Any:
        """Return output and, where asked, LSE in base 2; ``cache`` has K and V of a page side by side."""
        problem = self._problem
        layout, kv_lens = layout_from_csr(self._table, page_size=problem.page_size, num_pages=cache.shape[0])
        batch = Batch(kv_lens=kv_lens, q_lens=tuple(np.diff(self._rows).tolist()))
        tensors = Tensors(
            case=Case(problem=problem, batch=batch, kv_layout=self._kv_layout, interleaved=True),
            q=q.numpy(),
            pool=KvPool(storage=cache.numpy(), kv_layout=self._kv_layout, interleaved=True),
            layout=layout,
            kv_lens=np.asarray(kv_lens, np.int32),
            qo_indptr=self._rows,
        )
        return _answered(self._backend, tensors, return_lse)


class _MlaWrapper:
    """The wrapper over latent caches, as far as the others: vectors and rotary parts come side by side."""

    def __init__(self, backend: FlashInferPtxMlaBackend) -> None:
        self._backend = backend

    def plan(
        self,
        rows: torch.Tensor,
        indptr: torch.Tensor,
        indices: torch.Tensor,
        lens: torch.Tensor,
        *asked: Any,
        lse_mode: str = "none",
    ) -> None:
        """Keep what is asked."""
        heads, latent, rotary, page_size, causal, scale, dtype, _ = asked
        problem = Problem(
            num_qo_heads=heads,
            num_kv_heads=1,
            head_dim=latent + rotary,
            head_dim_v=latent,
            latent=True,
            page_size=page_size,
            dtype=str(dtype).removeprefix("torch."),
            causal=causal,
            sm_scale=scale,
        )
        kv_lens = tuple(lens.tolist())
        self._case = Case(problem=problem, batch=Batch(kv_lens=kv_lens, q_lens=tuple(rows.diff().tolist())))
        last = lens - (indptr.diff() - 1) * page_size
        self._table = CsrTable(indptr=indptr.numpy(), indices=indices.numpy(), last_page_len=last.numpy())
        self._rows = rows.numpy()

    def run(self, *parts: torch.Tensor, return_lse: bool = False) -> Any:
        """Return output and, where asked, LSE in base 2."""
        q, cache = (torch.cat(pair, -1).contiguous().numpy() for pair in (parts[:2], parts[2:]))
        problem = self._case.problem
        pages = len(cache)
        layout, kv_lens = layout_from_csr(self._table, page_size=problem.page_size, num_pages=pages)
        return _answered(
            self._backend,
            Tensors(
                case=self._case,
                q=q,
                pool=KvPool(
                    storage=cache.reshape(pages, -1),
                    kv_layout="NHD",
                    interleaved=False,
                    parts=pool_parts(problem),
                ),
                layout=layout,
                kv_lens=np.asarray(kv_lens, np.int32),
                qo_indptr=self._rows,
            ),
            return_lse,
        )


def _answered(backend: Any, tensors: Tensors, return_lse: bool) -> Any:
    plan = backend.plan(tensors)
    backend.run(plan)
    given = backend.fetch(plan)
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
        "mla": SimpleNamespace(
            BatchMLAPagedAttentionWrapper=lambda workspace, **options: _MlaWrapper(
                FlashInferPtxMlaBackend(device)
            )
        ),
    }
    vars(module).update(given)
    return module
