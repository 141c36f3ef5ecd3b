# SPDX-License-Identifier: Apache-2.0
"""The kill matrix of images: the suite passes who keeps them apart and kills every fault planted in that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pabench.selftest.mutants import Mutant, load_mutants
from pabench.selftest.python_mutants import load_mutated
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.registry import load_allocator
from tests.support.kill_support import ask
from tests.support.probe import DEVICE

MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "allocators_images.toml")
CHECK = "allocator-invariants[images]"


@pytest.mark.parametrize("name", ["host", "host-groups", "model"])
def test_kill_images_passes_right_ones(name: str) -> None:
    record = ask(CHECK, load_allocator(name), DEVICE, name=name)
    assert record.outcome is None
    assert record.cases >= 5


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_images_kills(mutant: Mutant) -> None:
    made: Any = load_mutated(mutant, "pabench.subjects.allocators.host").HostAllocator
    record = ask(mutant.killed_by, AllocatorEntry.of(made), DEVICE, profile="default", name="host")
    assert record.outcome is not None, f"{mutant.id} lives"
    assert record.outcome.text.startswith("operation ")
