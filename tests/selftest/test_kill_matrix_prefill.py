# SPDX-License-Identifier: Apache-2.0
"""The kill matrix of the tensor-core prefill kernel: the suite passes on it and kills every planted fault."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pabench.problem.features import all_features
from pabench.problem.masks import MASKS
from pabench.resources import resource_dir
from pabench.selftest.mutants import Mutant, load_mutants
from tests.support.kill_support import examine, killed, place_of, plant

MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "prefill_mma.toml")
SEEDS = (0, 1, 2)
BACKEND = "rawkernel-mma"
FEATURES = ("non-causal", "window", "sinks")


def features_of(check: str) -> tuple[str, ...]:
    """What the backend declares: the feature that a check is named after besides, so that it can be asked."""
    if check == "masked-prompts":
        return (*FEATURES, *MASKS)
    label = check.rpartition("[")[2].removesuffix("]")
    return (*FEATURES, *({label} & {*all_features()} - {*FEATURES}))


def narrow(check: str) -> dict[str, Any]:
    """What the backend declares where ``check`` is asked: no more than it needs."""
    apart = "head-dim-v" in check
    return {"backend": BACKEND, "features": features_of(check), "max_head_dim": 48 if apart else 16}


@pytest.mark.parametrize("check", sorted({mutant.killed_by for mutant in MUTANTS}))
def test_kill_matrix_prefill_passes_the_right_kernel(check: str) -> None:
    notebook = examine(check, resource_dir("kernels_cuda"), **narrow(check))
    assert notebook.outcome is None
    assert notebook.cases >= (9 if check.startswith("guard") else 30)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_matrix_prefill_kills(mutant: Mutant, tmp_path: Path) -> None:
    kernels = plant(mutant, tmp_path)
    for seed in SEEDS:
        text = killed(mutant, kernels, seed=seed, profile="default", **narrow(mutant.killed_by))
        assert text is not None, f"{mutant.id} lives with seed {seed}"
        assert re.search(f"{place_of(mutant.killed_by)}|^DeviceFault: ", text), text
