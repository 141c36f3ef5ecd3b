# SPDX-License-Identifier: Apache-2.0
"""What tests of the tensor-core prefill kernel share: its shapes, a plan of tensors, a run, a verdict."""

from __future__ import annotations

from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.device.emulated import EmulatedDevice
from pabench.judge.verdict import judge
from pabench.kernels.decode_simple import AttentionPlan
from pabench.kernels.prefill import PrefillShape, plan_prefill
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from tests.support.probe import DEVICE

PROFILE = RawKernelMmaBackend.profile
FEW, MANY = (PrefillShape(warps=warps, tile_tokens=64, stages=3) for warps in (4, 8))
WIDE = PrefillShape(warps=4, tile_tokens=64, stages=2, row_tiles=2)


def uploaded(tensors: Tensors, device: Device) -> dict[str, Any]:
    """The arrays of a case on a device, by the names that plans have for them."""
    return {
        "q": device.to_device(tensors.q),
        "pool": tensors.pool.with_storage(device.to_device(tensors.pool.storage)),
        "block_table": device.to_device(tensors.layout.block_table),
        "kv_lens": device.to_device(tensors.kv_lens),
        "qo_indptr": device.to_device(tensors.qo_indptr),
    }


def planned(tensors: Tensors, device: EmulatedDevice = DEVICE, **options: Any) -> AttentionPlan:
    return plan_prefill(device, tensors.case.problem, **uploaded(tensors, device), **options)


def run(plan: AttentionPlan, launches: slice = slice(None)) -> AttentionOutput:
    """Run on output that holds NaN everywhere before."""
    plan.out[...], plan.lse[...] = 0xFFFF if plan.out.dtype == np.uint16 else np.nan, np.nan
    for launch in plan.launches[launches]:
        plan.module.launch(launch)
    return AttentionOutput(out=plan.out.copy(), lse=plan.lse.copy())


def assert_right(tensors: Tensors, result: AttentionOutput) -> None:
    verdict = judge(tensors, result.out, result.lse, PROFILE)
    assert verdict.passed, verdict.text
