"""The kill matrix: the suite passes on the right kernels and kills every planted fault, by name and place."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kill_support import MATRIX, examine, examiner_of, tests_of_suite

from pabench.conformance import attention_checks
from pabench.conformance.mutants import Mutant, load_mutants, overlay
from pabench.conformance.registry import check_by_id
from pabench.oracle import verdict
from pabench.oracle.reference import Truth
from pabench.resources import resource_dir
from pabench.strategies import cases

MUTANTS = load_mutants(Path(__file__).parent / "mutants" / "kernels.toml")
BY_ID = {mutant.id: mutant for mutant in MUTANTS}
KERNELS = resource_dir("kernels_cuda")
SEEDS = (0, 1, 2)

WIDE = {"head-dim-tail-dropped-in-output", "append-head-dim-tail-dropped"}
"""Faults that need a head_dim beside 16; it costs a second compiled kernel."""

PLACES = {
    "attention": r"sequence \d+, query head \d+(, dim \d+)?|sequence \d+ is empty",
    "append": r"(key|value) in slot \d+ \(page \d+, offset \d+\), KV head \d+, dim \d+",
    "allocator-invariants": r"operation \d+ \((extend|free|drain)\): ",
}


def plant(mutant: Mutant, folder: Path) -> Path:
    return overlay(mutant, KERNELS, folder / "kernels")


def place_of(check: str) -> str:
    return PLACES.get(check, PLACES["attention"])


def test_kill_matrix_names_every_test_of_the_suite() -> None:
    assert {entry.test.__name__ for entry in MATRIX.values()} == tests_of_suite()
    assert {mutant.killed_by for mutant in MUTANTS} <= set(MATRIX)


@pytest.mark.parametrize("check", MATRIX)
def test_kill_matrix_passes_right_kernels(check: str) -> None:
    notebook = examine(check, KERNELS, max_head_dim=80)
    assert notebook.outcome is None
    assert notebook.cases >= 30


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_matrix_kills(mutant: Mutant, tmp_path: Path) -> None:
    kernels = plant(mutant, tmp_path)
    head_dim = 80 if mutant.id in WIDE else 16
    for seed in SEEDS:
        outcome = examine(mutant.killed_by, kernels, seed=seed, max_head_dim=head_dim).outcome
        assert outcome is not None, f"{mutant.id} lives with seed {seed}"
        assert re.search(place_of(mutant.killed_by), outcome.text), outcome.text
