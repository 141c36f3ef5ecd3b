# SPDX-License-Identifier: Apache-2.0
"""What adapters of CUDA libraries share: a case as torch tensors and page lists, and a call made later."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from types import ModuleType

import numpy as np
import torch

from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.layout import PageLayout
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.torch_tensors import TORCH_DTYPES, to_numpy, upload
from pabench.subjects.backends.validate import check_attention
from pabench.subjects.peers.package import ThirdPartyPackage

LN_2 = math.log(2.0)
HALVES = frozenset({"float16", "bfloat16"})
"""Storage types of tensor-core libraries."""
FAST_TANH = 2.0**-11
"""Absolute error of PTX ``tanh.approx.f32``: its relative error is at most 2^-11 and no tanh exceeds 1."""
Result = tuple[torch.Tensor, torch.Tensor | None]


def page_lists(layout: PageLayout, kv_lens: Array) -> dict[str, torch.Tensor]:
    """Return the fields of ``CsrTable`` as tensors on the host."""
    return {name: torch.from_numpy(array) for name, array in asdict(layout.to_csr(kv_lens.tolist())).items()}


class PagedInputs:
    """A case on the device, in the shapes that CUDA libraries take."""

    def __init__(self, tensors: Tensors, where: torch.device) -> None:
        """Upload ``tensors``; the block table goes as it is, unused entries included."""
        case = tensors.case
        self.case, self.where, self.tensors = case, where, tensors
        self.problem: Problem = case.problem
        self.q = upload(tensors.q, case.problem.dtype, where)
        self.pool = tensors.pool.with_storage(upload(tensors.pool.storage, case.problem.dtype, where))
        self.block_table = torch.from_numpy(np.ascontiguousarray(tensors.layout.block_table)).to(where)
        self.kv_lens = torch.from_numpy(tensors.kv_lens).to(where)
        self.qo_indptr = torch.from_numpy(tensors.qo_indptr).to(where)
        self.max_q_len = max(case.batch.query_lens)
        self.max_kv_len = max(case.batch.kv_lens)

    @cached_property
    def pages(self) -> dict[str, torch.Tensor]:
        """``indptr``, ``indices`` and ``last_page_len`` of ``CsrTable``, on the host."""
        return page_lists(self.tensors.layout, self.tensors.kv_lens)

    @property
    def caches(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V in the layout of the case."""
        return self.pool.k, self.pool.v

    @property
    def nhd_caches(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V as ``(num_pages, page_size, num_kv_heads, head_dim)``, views for HND."""
        k, v = self.caches
        return (k, v) if self.pool.kv_layout == "NHD" else (k.transpose(1, 2), v.transpose(1, 2))

    @property
    def dtype(self) -> torch.dtype:
        """Of queries, cache and output."""
        return TORCH_DTYPES[self.problem.dtype]

    @property
    def window_left(self) -> int:
        """Keys before the query's own that it sees: our window counts its own too.  -1 without a window."""
        return -1 if self.problem.window is None else self.problem.window - 1


@dataclass(slots=True, kw_only=True, eq=False)
class GpuPlan:
    """A call with all its arguments, and its result once it has run."""

    call: Callable[[], Result]
    result: Result | None = None


class GpuBackend(ABC):
    """A backend whose kernels need a GPU; a subclass prepares the call."""

    name: str
    capabilities: Capabilities
    profile: NumericsProfile
    peer: ThirdPartyPackage
    mode = "native"
    takes_resident = True

    def __init__(self, device: Device) -> None:
        """Import the package; raises ``Unsupported`` where it is absent, too old or broken."""
        self._where = torch.device("cuda" if device.name == "cuda" else "cpu")
        self._modules: Mapping[str, ModuleType] = self.peer.load()

    def plan(self, tensors: Tensors) -> GpuPlan:
        """Upload, convert, and let the library plan; raises ``InvalidCase`` and ``Unsupported``."""
        check_attention(self.name, self.capabilities, tensors)
        return GpuPlan(call=self._prepare(PagedInputs(tensors, self._where)))

    def run(self, plan: GpuPlan) -> None:
        """Make the call."""
        plan.result = plan.call()

    def outputs(self, plan: GpuPlan) -> tuple[torch.Tensor, ...]:
        """Return what the last call returned."""
        return tuple(one for one in plan.result or () if one is not None)

    def fetch(self, plan: GpuPlan) -> AttentionOutput:
        """Wait, and return output and LSE in our conventions."""
        if plan.result is None:
            raise Unsupported(f"{self.name}: fetch before run")
        out, lse = plan.result
        return AttentionOutput(
            out=to_numpy(out), lse=None if lse is None else to_numpy(lse.float().contiguous())
        )

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Refuse, unless a subclass has it."""
        raise Unsupported(f"{self.name}: no append")

    @abstractmethod
    def _prepare(self, given: PagedInputs) -> Callable[[], Result]:
        """Return the call; whatever is not the computation is done before it returns."""


def refuse_alibi_without_causal(case: Case) -> str | None:
    """ALiBi of FlashAttention is minus slope times the distance's size: ours where no key is ahead."""
    if case.problem.alibi_slopes is not None and "non-causal" in case.features:
        return "ALiBi takes the distance without its sign, which is another bias without a causal mask"
    return None
