# SPDX-License-Identifier: Apache-2.0
"""The kill matrix of the device allocators: faults in their kernels, on both emulated devices."""

from __future__ import annotations

import contextlib
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.checks.case_budget import CASE_BUDGETS
from pabench.checks.record import CheckRecord
from pabench.device.checked import CheckedDevice
from pabench.device.findings import Finding
from pabench.errors import DeviceFault, InvalidCase, OutOfPages, Unsupported
from pabench.kernels import page_pool
from pabench.resources import resource_dir
from pabench.selftest.mutants import Mutant, load_mutants, overlay
from pabench.subjects.allocators.scan import ScanAllocator
from pabench.subjects.registry import load_allocator
from tests.support.allocator_support import random_call, shape_of
from tests.support.apart import CRASHED, apart
from tests.support.kill_support import ask, device_of

FOLDER = Path(__file__).resolve().parents[1] / "mutants"
MUTANTS = load_mutants(FOLDER / "allocators_device.toml")
CHECKED = load_mutants(FOLDER / "allocators_device_checked.toml")
KERNELS = resource_dir("kernels_cuda")
SEEDS = (0, 1, 2)
QUICK_RUNS = CASE_BUDGETS["quick"].machine_runs
PLACE = r"^operation \d+ \([a-z_]+\): "
WILD = re.compile("pool-(index|grows|the-dead)-|scan-wide-load-")
"""Planted faults that write beside the tables: each runs in a process of its own."""
SUBJECTS = {"pab/pool_ticket.cuh": "ticket", "pab/pool_stack.cuh": "stack", "pab/page_requests.cuh": "stack"}


def examine(
    check: str,
    subject: str,
    kernels: Path,
    *,
    seed: int = 0,
    runs: int = QUICK_RUNS,
    workers: int | None = None,
) -> CheckRecord:
    device = device_of(kernels, poll_seconds=1, workers=workers)
    case_budget = replace(CASE_BUDGETS["quick"], machine_runs=runs, shrink=False)
    return ask(check, load_allocator(subject), device, case_budget=case_budget, seed=seed, name=subject)


def verdict(check: str, subject: str, kernels: str, seed: int) -> str | None:
    """Return the text of what ``examine`` finds, or None."""
    # on one core the seed alone decides who meets whom, and not what else the machine does
    outcome = examine(check, subject, Path(kernels), seed=seed, workers=1).outcome
    return None if outcome is None else outcome.text


@pytest.mark.parametrize("subject", ["scan", "scan-prefix", "ticket", "stack"])
@pytest.mark.parametrize("check", ["allocator-invariants", "allocator-decode", "allocator-concurrent"])
def test_kill_allocators_device_passes_right_ones(check: str, subject: str) -> None:
    if check == "allocator-concurrent" and subject.startswith("scan"):
        with pytest.raises(Unsupported, match="serves a whole request in order"):
            examine(check, subject, KERNELS, runs=1)
        return
    # the tests of the command run the whole quick profile on each
    record = examine(check, subject, KERNELS, runs=40)
    assert record.outcome is None
    assert record.cases >= 10


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_allocators_device_kills(mutant: Mutant, tmp_path: Path) -> None:
    kernels = overlay(mutant, KERNELS, tmp_path / "kernels")
    subject = mutant.subject or SUBJECTS.get(mutant.file, "scan")
    for seed in SEEDS:
        given: dict[str, Any] = {"check": mutant.killed_by, "subject": subject, "kernels": str(kernels)}
        given["seed"] = seed
        text = apart(verdict, silence_s=60, **given) if WILD.match(mutant.id) else verdict(**given)
        assert text is not None, f"{mutant.id} lives with seed {seed}"
        assert re.search(PLACE, text) or (WILD.match(mutant.id) and text.startswith(CRASHED)), text


def findings(file: str, kernels: Path, seed: int, workers: int | None = None) -> list[Finding]:
    """What the checked device finds while pages change hands."""
    device = CheckedDevice(collect=True, seed=seed, kernels=kernels, workers=workers)
    if file in SUBJECTS:
        pool = page_pool.new_pool(device, SUBJECTS[file], 64)
        stamps = page_pool.new_stamps(pool, np.array([], np.int64))
        page_pool.churn(pool, stamps, blocks=2, threads=64, rounds=10, most=2)
        return device.findings
    # a race may spoil the pages before the history ends, and the host says so; what the device saw stays
    with contextlib.suppress(DeviceFault):
        share_and_churn(device, seed)
    return device.findings


def share_and_churn(device: CheckedDevice, seed: int) -> None:
    """Pages with two holders freed in one call, then random calls over what is left."""
    shape, rng = shape_of(90, 1, 40, 9), random.Random(seed)
    scan = ScanAllocator(device, shape, blocks=2)
    for sequence in range(8):
        scan.alloc(sequence, 9)
        scan.fork(sequence, sequence + 8)
    scan.free([4, 5, 6, 7, 12, 13, 14, 15])  # both holders of a page, in two warps
    for _ in range(20):
        live = np.flatnonzero(scan.lengths() >= 0).tolist()
        call = random_call(rng, shape, live, {"append_batch", "fork", "truncate", "free"})
        with contextlib.suppress(InvalidCase, OutOfPages):
            call(scan)


@pytest.mark.parametrize("file", ["pab/pool_ticket.cuh", "pab/pool_stack.cuh", "page_alloc_scan.cu"])
def test_kill_allocators_device_checked_is_clean(file: str) -> None:
    assert [finding for seed in SEEDS for finding in findings(file, KERNELS, seed)] == []


@pytest.mark.parametrize("mutant", CHECKED, ids=lambda mutant: mutant.id)
def test_kill_allocators_device_checked_finds_races(mutant: Mutant, tmp_path: Path) -> None:
    kernels = overlay(mutant, KERNELS, tmp_path / "kernels")
    for seed in SEEDS:
        found = findings(mutant.file, kernels, seed, workers=1)
        assert found, f"{mutant.id} lives with seed {seed}"
        # what is read too soon may be an index, and lead beside the arrays
        assert {mutant.killed_by} <= {finding.check for finding in found} <= {mutant.killed_by, "memory"}
