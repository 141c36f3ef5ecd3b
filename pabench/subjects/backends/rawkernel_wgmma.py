# SPDX-License-Identifier: Apache-2.0
"""Our tensor-core kernels with prompts by products of warpgroups, which sm_90a has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pabench.device.architecture import architecture_of
from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.kernels.decode_simple import AttentionPlan
from pabench.kernels.prefill_wgmma import ARCHITECTURE, plan_prefill_wgmma, tensor_maps
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.subjects.backends.rawkernel_mma import ROW_FEATURES, RawKernelMmaBackend


class RawKernelWgmmaBackend(RawKernelMmaBackend):
    """As ``rawkernel-mma``, but sequences with more than 8 query tokens go to ``paged_prefill_wgmma.cu``.

    Caches are stored as the queries are.

    Args:
        device: where to run.

    Raises:
        Unsupported: its kernels are not compiled for sm_90a.
    """

    name = "rawkernel-wgmma"
    capabilities = replace(
        RawKernelMmaBackend.capabilities,
        devices=frozenset({"cuda", "ptx"}),
        features=RawKernelMmaBackend.capabilities.features - {"fp8-kv", *ROW_FEATURES},
    )

    def __init__(self, device: Device) -> None:
        there = architecture_of(device)
        if there != ARCHITECTURE:
            rule = f"wgmma is on {ARCHITECTURE} alone, not on {there or device.name}"
            raise Unsupported(f"{self.name}: {rule}; without such a GPU use --device ptx:{ARCHITECTURE}")
        super().__init__(device)

    def _prompts(self, problem: Problem, **options: Any) -> AttentionPlan:
        options.pop("mean_query_len", None)  # blocks have as many rows whatever it is
        return plan_prefill_wgmma(self._device, problem, **options)

    def _maps(self, pool: KvPool) -> tuple[Any, ...]:
        return tensor_maps(self._device, pool)
