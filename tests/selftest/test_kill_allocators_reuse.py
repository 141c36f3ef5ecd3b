# SPDX-License-Identifier: Apache-2.0
"""The suite passes begun pages, copied forks and priorities, and kills each fault planted in their source."""

from __future__ import annotations

from pathlib import Path

import pytest

from pabench.selftest.mutants import Mutant, load_mutants
from pabench.selftest.python_mutants import load_mutated
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.registry import load_allocator
from tests.support.kill_support import ask
from tests.support.probe import DEVICE

MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "allocators_reuse.toml")


def test_kill_reuse_passes_the_right_one() -> None:
    record = ask("allocator-invariants[reuse]", load_allocator("host-reuse"), DEVICE, name="host-reuse")
    assert record.outcome is None
    assert record.cases >= 10


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (1, 2))])
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_reuse_kills(mutant: Mutant, seed: int) -> None:
    entry = AllocatorEntry.of(load_mutated(mutant, "pabench.subjects.allocators.host_reuse").HostReuse)
    outcome = ask(mutant.killed_by, entry, DEVICE, seed=seed, profile="default", name="host-reuse").outcome
    assert outcome is not None, f"{mutant.id} lives"
    assert outcome.text.startswith("operation ")
