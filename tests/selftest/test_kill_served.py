# SPDX-License-Identifier: Apache-2.0
"""The kill matrix of calls as servers make them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pabench.resources import resource_dir
from pabench.selftest.mutants import Mutant, load_mutants
from tests.support.kill_support import examine, killed, place_of, plant

MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "served.toml")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_served(mutant: Mutant, tmp_path: Path) -> None:
    text = killed(mutant, plant(mutant, tmp_path))
    assert text is not None, f"{mutant.id} lives"
    assert re.search(place_of(mutant.killed_by), text), text


@pytest.mark.slow
def test_dummy_lengths_serve_the_tensor_core_kernels() -> None:
    """They plan on the device, from the lengths of that moment."""
    kernels = resource_dir("kernels_cuda")
    assert examine("dummy-lengths", kernels, backend="rawkernel-mma").outcome is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_served_right_kernels_pass(mutant: Mutant) -> None:
    assert killed(mutant, resource_dir("kernels_cuda")) is None
