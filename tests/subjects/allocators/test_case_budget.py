# SPDX-License-Identifier: Apache-2.0
"""How hard histories are: operations of the default profile, counted; the schedule comes with a failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pabench.checks.case_budget import CASE_BUDGETS
from pabench.checks.case_files import SavedCase
from pabench.checks.failures import load_case, rerun
from pabench.device.emulated import EmulatedDevice
from pabench.errors import InvalidCase
from pabench.judge.allocators.history import HistoryCase, history_from_dict
from pabench.resources import resource_dir
from pabench.selftest.mutants import load_mutants, overlay
from pabench.subjects.allocators.table import ALLOCATORS
from pabench.subjects.registry import load_allocator
from tests.support.allocator_support import shape_of
from tests.support.kill_support import ask
from tests.support.probe import DEVICE
from tests.support.saved_cases import save_case

OURS = [name for name, entry in ALLOCATORS.items() if not entry.peers]
DEFAULT = CASE_BUDGETS["default"]
SHAPE = shape_of(4, 2, 3, 2)
MUTANTS = {
    mutant.id: mutant
    for mutant in load_mutants(Path(__file__).resolve().parents[2] / "mutants/allocators_device.toml")
}


@pytest.mark.parametrize("name", OURS)
def test_allocators_case_budget_of_a_default_history_is_40_operations(name: str) -> None:
    """At least 200 histories of 40 steps are asked of each; here a few of them."""
    assert DEFAULT.machine_runs >= 200
    assert DEFAULT.machine_steps >= 40
    case_budget = replace(DEFAULT, machine_runs=12, shrink=False)
    record = ask("allocator-invariants", load_allocator(name), DEVICE, case_budget=case_budget, name=name)
    assert record.outcome is None
    assert record.cases >= 12
    assert record.operations >= 40 * record.cases


def test_allocators_schedule_is_saved_and_replayed(tmp_path: Path) -> None:
    """What a schedule has shown, the case directory shows again on a device that starts with another one."""
    kernels = overlay(MUTANTS["stack-no-tag"], resource_dir("kernels_cuda"), tmp_path / "kernels")

    def device() -> EmulatedDevice:
        return EmulatedDevice(kernels=kernels, poll_seconds=1, workers=1)

    record = ask("allocator-concurrent", load_allocator("stack"), device(), name="stack")
    case, outcome = record.failing, record.outcome
    assert isinstance(case, HistoryCase)
    assert outcome is not None
    saved = SavedCase(check="allocator-concurrent", subject="stack", device="emulated", case=case)
    save_case(tmp_path, saved, outcome.text)
    assert load_case(tmp_path) == saved
    assert rerun(load_case(tmp_path), device()) == outcome
    others = [replace(saved, case=replace(case, schedule=schedule)) for schedule in range(6)]
    assert {rerun(other, device()).text for other in others} != {outcome.text}


def test_allocators_histories_of_schema_2_have_no_schedule() -> None:
    now = HistoryCase(shape=SHAPE, operations=(("reset", {}),))
    before = {key: value for key, value in now.to_dict().items() if key != "schedule"} | {"schema": 2}
    assert history_from_dict(before) == now
    for wrong in (-1, 2**64, "1", None):
        with pytest.raises(InvalidCase, match=r"history\.schedule"):
            history_from_dict({**now.to_dict(), "schedule": wrong})
    with pytest.raises(InvalidCase, match="must have schema, shape, operations and schedule"):
        history_from_dict({**before, "schema": 3})
