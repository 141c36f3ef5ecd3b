"""The kill matrix of the host allocator: the suite passes it and kills every fault planted in its sources."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pabench.activities.conformance.examiner import PROFILES, Examiner, Notebook
from pabench.selftest.mutants import Mutant, load_mutants
from pabench.selftest.python_mutants import load_mutated
from pabench.subjects.allocators.registry import ALLOCATORS, AllocatorEntry
from tests.support.kill_support import run_check
from tests.support.probe import DEVICE

MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "allocators.toml")
SEEDS = (0, 1, 2)
PLACE = r"^operation \d+ \([a-z_]+\): "


def examine(check: str, entry: AllocatorEntry, *, seed: int = 0, profile: str = "quick") -> Notebook:
    examiner = Examiner(
        subject="host",
        device=DEVICE,
        effort=replace(PROFILES[profile], shrink=False),
        seed=seed,
        allocator=entry,
    )
    return run_check(check, examiner)


def planted(mutant: Mutant) -> AllocatorEntry:
    entry: Any = load_mutated(mutant, "pabench.subjects.allocators.registry").ALLOCATORS["host"]
    return AllocatorEntry(about=entry.about, capabilities=entry.capabilities, make=entry.make)


@pytest.mark.parametrize("check", ["allocator-invariants", "allocator-decode"])
def test_kill_allocators_passes_right_ones(check: str) -> None:
    notebook = examine(check, ALLOCATORS["host"])
    assert notebook.outcome is None
    assert notebook.cases >= 10


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_allocators_kills(mutant: Mutant) -> None:
    entry = planted(mutant)
    for seed in SEEDS:
        outcome = examine(mutant.killed_by, entry, seed=seed, profile="default").outcome
        assert outcome is not None, f"{mutant.id} lives with seed {seed}"
        assert re.search(PLACE, outcome.text), outcome.text
