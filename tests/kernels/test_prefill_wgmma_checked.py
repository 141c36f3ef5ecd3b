# SPDX-License-Identifier: Apache-2.0
"""Fences, barriers and waits of the prefill kernel of warpgroups: without one the checked device says so.

Most of these faults change no number in most runs, as they would not on most days on hardware.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pabench.device.checked import KernelFindings
from pabench.device.registry import open_device
from pabench.problem import Batch, Case, build_tensors
from pabench.resources import resource_dir
from pabench.selftest.mutants import Mutant, overlay
from tests.device.ptx.test_device import needs_nvrtc
from tests.kernels.test_prefill_wgmma import HOPPER, PLAIN, planned
from tests.support.prefill_support import run

KERNEL, FEED = "paged_prefill_wgmma.cu", "pab/wgmma_feed.cuh"
LONG = Batch(kv_lens=(1100,), q_lens=(70,))
"""More tiles than stages."""
FAULTS = {
    "a stage is taken before it is given back": (
        FEED,
        "if (n >= kStages) barrier_wait(&memory.keys_done[stage], phase_of(n - kStages));",
        "if (n > kStages) barrier_wait(&memory.keys_done[stage], phase_of(n - kStages));",
        r"^(race|sync): ",
    ),
    "copies without a fence to the products": (
        FEED,
        "  proxy_fence();\n  warp_sync(kFullMask);",
        "  warp_sync(kFullMask);",
        r"^race: .* with no fence.proxy.async between them",
    ),
    "queries without a fence to the products": (
        KERNEL,
        "  proxy_fence();\n  bar_sync(group, kGroupThreads);",
        "  bar_sync(group, kGroupThreads);",
        r"^race: .* with no fence.proxy.async between them",
    ),
    "products begun without a fence": (
        KERNEL,
        "    settled(score);\n    product_begin();",
        "    settled(score);",
        r"^sync: wgmma ",
    ),
}


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=() if "queries" in one else pytest.mark.nightly) for one in FAULTS]
)
def test_wgmma_checked_device_sees_what_is_missing(name: str, tmp_path: Path) -> None:
    file, before, after, says = FAULTS[name]
    mutant = Mutant(
        id="fault", file=file, before=before, after=after, bugs=(), trigger=name, killed_by="race"
    )
    kernels = overlay(mutant, resource_dir("kernels_cuda"), tmp_path / "kernels")
    device = open_device(HOPPER, checked=True, seed=3, kernels=kernels, poll_seconds=5)
    tensors = build_tensors(Case(problem=PLAIN, batch=LONG, poison="nan"))
    with pytest.raises(KernelFindings, match=says):
        run(planned(tensors, device))
