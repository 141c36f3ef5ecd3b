# SPDX-License-Identifier: Apache-2.0
"""The kill matrix of the host allocator: the suite passes it and kills every fault planted in its sources."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pabench.checks.record import CheckRecord
from pabench.selftest.mutants import Mutant, load_mutants
from pabench.selftest.python_mutants import load_mutated
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.registry import load_allocator
from tests.support.kill_support import ask
from tests.support.probe import DEVICE

MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "allocators.toml")
SEEDS = (0, 1, 2)
PLACE = r"^operation \d+ \([a-z_]+\): "


def examine(check: str, entry: AllocatorEntry, *, seed: int = 0, profile: str = "quick") -> CheckRecord:
    return ask(check, entry, DEVICE, seed=seed, profile=profile, name="host")


def planted(mutant: Mutant) -> AllocatorEntry:
    made: Any = load_mutated(mutant, "pabench.subjects.allocators.host").HostAllocator
    return AllocatorEntry.of(made)


@pytest.mark.parametrize("check", ["allocator-invariants", "allocator-decode"])
def test_kill_allocators_passes_right_ones(check: str) -> None:
    record = examine(check, load_allocator("host"))
    assert record.outcome is None
    assert record.cases >= 10


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_allocators_kills(mutant: Mutant) -> None:
    entry = planted(mutant)
    for seed in SEEDS:
        outcome = examine(mutant.killed_by, entry, seed=seed, profile="default").outcome
        assert outcome is not None, f"{mutant.id} lives with seed {seed}"
        assert re.search(PLACE, outcome.text), outcome.text


CORNERS = ("host-copy-not-counted", "host-stale-hashes-after-truncate")


@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.id in CORNERS], ids=lambda one: one.id)
def test_kill_allocators_needs_no_luck_in_corners(mutant: Mutant) -> None:
    entry = planted(mutant)
    for seed in range(12):
        assert examine("allocator-invariants[corners]", entry, seed=seed).outcome is not None, seed


def test_kill_allocators_passes_the_right_one_in_corners() -> None:
    for seed in range(4):
        assert examine("allocator-invariants[corners]", load_allocator("host"), seed=seed).outcome is None


REPORTED = (
    *("host-token-ids-cut-to-8-bits", "host-salt-dropped-when-there-is-an-adapter"),
    *("host-slots-in-a-buffer-used-again", "host-slots-of-the-live-row", "host-offset-mask-of-16"),
    *("host-a-page-lost-every-2000-frees", "host-stale-hashes-after-truncate"),
)
"""Faults of public reports that histories of two tokens, small pages and results asked once did not show."""
QUICK = ("allocator-invariants", "allocator-invariants[corners]", "allocator-invariants[rounds]")


@pytest.mark.nightly
def test_kill_allocators_kills_the_reported_in_the_quick_profile() -> None:
    entries = [planted(mutant) for mutant in MUTANTS if mutant.id in REPORTED]
    assert len(entries) == len(REPORTED)
    killed = [any(examine(check, entry).outcome is not None for check in QUICK) for entry in entries]
    assert sum(killed) >= 0.8 * len(REPORTED)
