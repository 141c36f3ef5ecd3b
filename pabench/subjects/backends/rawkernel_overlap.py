# SPDX-License-Identifier: Apache-2.0
"""Our tensor-core kernels with the attention launched while its plan is made."""

from __future__ import annotations

from dataclasses import replace

from pabench.device.architecture import architecture_of, capability_of
from pabench.device.base import Device
from pabench.device.cuda_overlap import FIRST_CAPABILITY
from pabench.errors import Unsupported
from pabench.kernels.decode_simple import AttentionPlan
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend


class RawKernelOverlapBackend(RawKernelMmaBackend):
    """As ``rawkernel-mma``, but an attention may be launched before the kernel in front of it has ended.

    It waits for that one by itself: programmatic dependent launch, of GPUs from sm_90 on.  On the PTX device
    kernels come one after the other.  Pieces of a sequence are merged within the attention, so that there is
    no third kernel.

    Args:
        device: where to run.

    Raises:
        Unsupported: its kernels are compiled for no such GPU.
    """

    name = "rawkernel-mma-overlap"
    capabilities = replace(RawKernelMmaBackend.capabilities, devices=frozenset({"cuda", "ptx"}))

    def __init__(self, device: Device) -> None:
        there = architecture_of(device)
        if there is None or capability_of(there) < FIRST_CAPABILITY:
            rule = f"kernels overlap from sm_{FIRST_CAPABILITY} on, not on {there or device.name}"
            raise Unsupported(f"{self.name}: {rule}; without such a GPU use --device ptx:sm_90a")
        super().__init__(device)

    def plan(self, tensors: Tensors) -> tuple[AttentionPlan, ...]:
        """Upload the arrays and build the launches; see ``rawkernel-mma``."""
        return tuple(_overlapping(plan) for plan in super().plan(tensors))


def _overlapping(plan: AttentionPlan) -> AttentionPlan:
    planning, attention = plan.launches[: plan.planning], plan.launches[plan.planning :]
    return replace(plan, launches=(*planning, *(replace(launch, overlaps=True) for launch in attention)))
