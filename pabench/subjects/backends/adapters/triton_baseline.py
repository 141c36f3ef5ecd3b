# SPDX-License-Identifier: Apache-2.0
"""Our small Triton kernel as a backend: what an adapter of a Triton kernel needs, and no more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pabench.device.base import Device
from pabench.problem.case import Case
from pabench.problem.problem import FEATURES
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.problem.visibility import visible_range
from pabench.subjects.backends.adapters.paged_tensors import PagedTensors, paged_tensors
from pabench.subjects.backends.adapters.triton_host import triton_host, why_not_grouped, why_not_interpreted
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.torch_tensors import TORCH_DTYPES
from pabench.subjects.backends.validate import check_attention

TILE = 32
TANH_ERROR = 2.0**-21
"""``1 - 2 / (exp(2 y) + 1)`` in float32: half the error of the exponential (2 units) and five roundings."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaselinePlan:
    """Arguments of one launch."""

    tensors: PagedTensors
    grid: tuple[int, int]
    arguments: dict[str, Any]


class TritonBaselineBackend:
    """``triton_paged.paged_attention``."""

    name = "triton"
    profile = NumericsProfile(partial_dtype=None, tanh_error=TANH_ERROR)
    capabilities = Capabilities(
        dtypes=frozenset(TORCH_DTYPES),
        operations=frozenset({"decode", "speculative", "prefill"}),
        features=frozenset(FEATURES),
    )

    def __init__(self, device: Device) -> None:
        """Import Triton and decorate the kernel; see ``triton_host`` for what is raised."""
        self._host = triton_host(self.name, device)
        self.mode = self._host.mode
        from pabench.subjects.backends.adapters.triton_paged import paged_attention

        self._kernel = paged_attention
        # compiled, its products are in float32, whatever the storage type
        dtypes = self._host.dtypes if self.mode == "interpreted" else type(self).capabilities.dtypes
        self.capabilities = replace(type(self).capabilities, dtypes=dtypes, rule=self._why_not)

    def _why_not(self, case: Case) -> str | None:
        if (reason := self._host.why_not(case) or why_not_grouped(case)) or self._host.compiled:
            return reason
        return why_not_interpreted(case, heads=case.problem.num_kv_heads, rows=1, tile=TILE)

    def plan(self, tensors: Tensors) -> BaselinePlan:
        """Upload, and say of each query row what it sees."""
        check_attention(self.name, self.capabilities, tensors)
        there = paged_tensors(tensors, self._host.where)
        problem, where = there.problem, self._host.where
        q_lens, kv_lens = there.case.batch.query_lens, there.case.batch.kv_lens
        seen = [visible_range(problem, *lens) for lens in zip(q_lens, kv_lens, strict=True)]
        position = [kv - rows + np.arange(rows) for rows, kv in zip(q_lens, kv_lens, strict=True)]
        group, head_dim = problem.group_size, problem.head_dim
        none = torch.zeros(1, device=where)
        page, token, head, _ = there.k.stride()
        rows = {
            "row_sequence": np.repeat(np.arange(len(q_lens)), q_lens),
            "row_first": np.concatenate([first for first, _ in seen]),
            "row_end": np.concatenate([end for _, end in seen]),
            "row_position": np.concatenate(position),
        }
        arguments = {
            "q": there.q,
            "k": there.k,
            "v": there.v,
            "out": there.out,
            "lse": there.lse,
            "block_table": there.block_table,
            **{name: torch.from_numpy(numbers.astype(np.int32)).to(where) for name, numbers in rows.items()},
            "slopes": none if problem.alibi_slopes is None else there.heads(problem.alibi_slopes),
            "sinks": none if problem.sinks is None else there.heads(problem.sinks),
            "k_scales": torch.tensor(problem.kv_scales("k"), device=where),
            "v_scales": torch.tensor(problem.kv_scales("v"), device=where),
            "sm_scale": problem.scale,
            "soft_cap": problem.soft_cap or 1.0,
            "table_stride": there.block_table.stride(0),
            "page_stride": page,
            "token_stride": token,
            "head_stride": head,
            "PAGE": problem.page_size,
            "GROUP": group,
            "HEADS": max(16, 1 << (group - 1).bit_length()),
            "DIM": head_dim,
            "DIMS": max(16, 1 << (head_dim - 1).bit_length()),
            "TILE": TILE,
            "CAP": problem.soft_cap is not None,
            "ALIBI": problem.alibi_slopes is not None,
            "SINKS": problem.sinks is not None,
            "SCALED": problem.kv_dtype is not None,
        }
        return BaselinePlan(tensors=there, grid=(len(there.q), problem.num_kv_heads), arguments=arguments)

    def run(self, plan: BaselinePlan) -> None:
        """Launch."""
        with self._host.launching():
            self._kernel[plan.grid](**plan.arguments)

    def fetch(self, plan: BaselinePlan) -> AttentionOutput:
        """Wait and copy output and LSE to the host."""
        self._host.synchronize()
        return plan.tensors.output(lse=True)
