# SPDX-License-Identifier: Apache-2.0
"""Faults in the prefill kernel of warpgroups die on the PTX device for sm_90a, which alone runs it.

All of them: ``pabench selftest --mutants tests/mutants/prefill_wgmma.toml``; here three.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pabench.selftest.killing import EMULATED, MutantRunner, device_of
from pabench.selftest.mutants import load_mutants
from pabench.selftest.own_subjects import subjects_of
from tests.device.test_nvrtc import needs_nvrtc

MUTANTS = {
    m.id: m for m in load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "prefill_wgmma.toml")
}
SAMPLE = (
    "wgmma-rows-not-swizzled",
    "wgmma-stale-tokens-in-boxes",
    pytest.param("wgmma-boxes-of-the-first-head", marks=pytest.mark.nightly),
)


def test_wgmma_faults_are_judged_where_the_kernel_runs() -> None:
    assert len(MUTANTS) >= 23
    for file in {mutant.file for mutant in MUTANTS.values()}:
        assert device_of(file) == "ptx:sm_90a"
        assert [one.name for one in subjects_of(file)] == ["rawkernel-wgmma"]


def test_wgmma_backend_is_not_asked_about_what_others_run_too() -> None:
    """It could not even be made on the emulated device, which would look like a kill."""
    for file in ("pab/prefill_order.cuh", "pab/features.cuh", "kernels/prefill.py"):
        assert device_of(file) == EMULATED
        assert "rawkernel-wgmma" not in {one.name for one in subjects_of(file)}


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_wgmma_fault_is_killed(name: str) -> None:
    mutant = MUTANTS[name]
    with MutantRunner(seeds=(0,)) as runner:
        result = runner.judge(mutant)
    assert result.status == "killed", result
    (kill,) = result.kills
    assert kill is not None
    assert kill.is_by(mutant.killed_by), kill
