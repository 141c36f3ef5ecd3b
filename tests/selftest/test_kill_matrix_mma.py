# SPDX-License-Identifier: Apache-2.0
"""The kill matrix of the tensor-core decode kernel: the suite passes on it and kills every planted fault."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pabench.problem.problem import FEATURES
from pabench.resources import resource_dir
from pabench.selftest.mutants import Mutant, load_mutants
from tests.support.kill_support import examine, killed, place_of, plant

MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "decode_mma.toml")
SEEDS = (0, 1, 2)
BACKEND = "rawkernel-mma"

MAX_HEAD_DIM = {
    "mma-e4m3-second-columns-are-the-first": 80,
    "mma-e4m3-second-chunk-is-the-first": 80,
    "mma-same-chunk-of-other-rows": 128,
}
"""Faults that need a head_dim beside 16; it costs further compiled kernels."""

FEATURES_OF = {
    "mma-window-of-the-last-row-for-all": ("window",),
    "mma-window-of-the-sequence-for-all-rows": ("window",),
    "mma-alibi-position-of-the-last-row": ("alibi",),
    "mma-sink-in-every-piece": ("sinks",),
    "mma-key-scale-on-values-with-features": ("fp8-kv", "window"),
    "mma-e4m3-power-of-the-query-left-in": ("fp8-kv",),
}
"""What must be drawn for a mutant, where it is not the feature that its check is named after."""

DTYPES = {"mma-e4m3-pairs-of-keys-swapped": ["float16"]}
"""Faults in instances of one type of queries."""


def features_of(mutant: Mutant) -> tuple[str, ...]:
    named = tuple(name for name in FEATURES if f"[{name}]" in mutant.killed_by)
    return FEATURES_OF.get(mutant.id, named)


@pytest.mark.parametrize("check", sorted({mutant.killed_by for mutant in MUTANTS}))
def test_kill_matrix_mma_passes_the_right_kernel(check: str) -> None:
    notebook = examine(check, resource_dir("kernels_cuda"), backend=BACKEND, features=FEATURES)
    assert notebook.outcome is None
    assert notebook.cases >= (9 if check.startswith(("guard", "layers")) else 30)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_matrix_mma_kills(mutant: Mutant, tmp_path: Path) -> None:
    kernels = plant(mutant, tmp_path)
    narrow: dict[str, Any] = {
        "backend": BACKEND,
        "features": features_of(mutant),
        "max_head_dim": MAX_HEAD_DIM.get(mutant.id, 16),
    }
    if mutant.id in DTYPES:
        narrow["dtypes"] = DTYPES[mutant.id]
    for seed in SEEDS:
        text = killed(mutant, kernels, seed=seed, profile="default", **narrow)
        assert text is not None, f"{mutant.id} lives with seed {seed}"
        assert re.search(place_of(mutant.killed_by), text), text
