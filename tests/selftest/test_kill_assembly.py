# SPDX-License-Identifier: Apache-2.0
"""Faults in the inline assembly, which the emulated device does not see, die on the PTX device.

All of them: ``pabench selftest --mutants tests/mutants/assembly.toml``; here two.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pabench.selftest.killing import ASSEMBLY, PTX, MutantRunner, device_of
from pabench.selftest.mutants import load_mutants
from tests.device.test_nvrtc import needs_nvrtc

MUTANTS = {m.id: m for m in load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "assembly.toml")}
SAMPLE = ("asm-lanemask-with-the-lane-itself", "asm-matrices-not-transposed")


def test_assembly_has_faults_and_all_are_judged_from_ptx() -> None:
    assert len(MUTANTS) >= 25
    assert {mutant.file for mutant in MUTANTS.values()} == {ASSEMBLY}
    assert device_of(ASSEMBLY) == PTX
    assert device_of("pab/features.cuh") == "emulated"


@needs_nvrtc
@pytest.mark.parametrize("name", SAMPLE)
def test_fault_in_the_assembly_is_killed(name: str) -> None:
    mutant = MUTANTS[name]
    with MutantRunner(seeds=(0,)) as runner:
        result = runner.judge(mutant)
    assert result.status == "killed", result
    (kill,) = result.kills
    assert kill is not None
    assert kill.is_by(mutant.killed_by), kill
