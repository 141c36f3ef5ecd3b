# SPDX-License-Identifier: Apache-2.0
"""The kill matrix of KV groups: the suite passes them and kills every fault planted in their source."""

from __future__ import annotations

from pathlib import Path

import pytest

from pabench.selftest.mutants import Mutant, load_mutants
from pabench.selftest.python_mutants import load_mutated
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.registry import load_allocator
from tests.support.kill_support import ask
from tests.support.probe import DEVICE

FILE = "allocators_groups.toml"
MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / FILE)


@pytest.mark.parametrize("name", ["host-groups", "scan"])
def test_kill_groups_passes_the_right_one(name: str) -> None:
    record = ask("allocator-invariants[groups]", load_allocator(name), DEVICE, name=name)
    assert record.outcome is None
    assert record.cases >= 10


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_groups_kills(mutant: Mutant) -> None:
    scan = Path(mutant.file).stem.startswith("scan")
    module = load_mutated(mutant, f"pabench.subjects.allocators.{'scan' if scan else 'host_groups'}")
    made = module.ScanAllocator if scan else module.HostGroups
    entry = AllocatorEntry.of(made)
    outcome = ask(mutant.killed_by, entry, DEVICE, seed=1, profile="default", name=made.name).outcome
    assert outcome is not None, f"{mutant.id} lives"
    assert outcome.text.startswith("operation ")
