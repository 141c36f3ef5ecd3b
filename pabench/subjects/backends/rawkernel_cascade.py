# SPDX-License-Identifier: Apache-2.0
"""Decode that reads shared prefixes once a group, from our tensor-core kernel, gather and merge."""

from __future__ import annotations

from typing import Any

from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.kernels.cascade import CascadePlan, plan_cascade
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.rawkernel import TANH_ERROR
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from pabench.subjects.backends.validate import check_attention


class RawKernelCascadeBackend:
    """As ``rawkernel-mma``, but pages that stand at the beginning of several sequences are read once for all.

    Args:
        device: where to run.
    """

    name = "rawkernel-cascade"
    capabilities = Capabilities(
        dtypes=RawKernelMmaBackend.capabilities.dtypes,
        devices=RawKernelMmaBackend.capabilities.devices,
        operations=frozenset({"decode", "speculative"}),
        max_head_dim=RawKernelMmaBackend.capabilities.max_head_dim,
        # a window and slopes depend on where a row stands, which the rows of a prefix do not know
        features=frozenset({"soft-cap", "sinks", "fp8-kv", "non-causal"}),
        merges_prefixes=True,
        rule=RawKernelMmaBackend.capabilities.rule,
    )
    # prefix and rest are outputs in the storage type before they are merged
    profile = NumericsProfile(
        p_dtype="storage", partial_dtype="storage", accumulation="blocked", tanh_error=TANH_ERROR
    )

    def __init__(self, device: Device) -> None:
        self._device = device

    def plan(self, tensors: Tensors) -> CascadePlan:
        """Find the groups, upload the arrays and build the launches."""
        check_attention(self.name, self.capabilities, tensors)
        device, case = self._device, tensors.case
        return plan_cascade(
            device,
            case.problem,
            q=device.to_device(tensors.q),
            pool=tensors.pool.with_storage(device.to_device(tensors.pool.storage)),
            layout=tensors.layout,
            batch=case.batch,
        )

    def run(self, plan: CascadePlan) -> None:
        """Queue the launches."""
        for module, launch in plan.steps:
            module.launch(launch)

    def outputs(self, plan: CascadePlan) -> tuple[Any, ...]:
        """Return output and LSE on the device."""
        return plan.out, plan.lse

    def fetch(self, plan: CascadePlan) -> AttentionOutput:
        """Wait and copy output and LSE to the host."""
        self._device.synchronize()
        return AttentionOutput(out=self._device.to_host(plan.out), lse=self._device.to_host(plan.lse))

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Refuse: ``rawkernel`` appends."""
        raise Unsupported(f"{self.name}: no append")
