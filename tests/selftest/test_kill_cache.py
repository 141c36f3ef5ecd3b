# SPDX-License-Identifier: Apache-2.0
"""The kill matrix of the cache kernels, of merging and of shared prefixes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pabench.kernels import cascade
from pabench.resources import resource_dir
from pabench.selftest.mutants import Mutant, load_mutants
from pabench.selftest.python_mutants import load_mutated
from pabench.subjects.backends import rawkernel_cascade
from tests.support.kill_support import killed, place_of, plant

MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "cache.toml")
SEEDS = (0, 1)
DTYPES = {"gather-rounds-twice": ["bfloat16"]}
"""Faults that need another storage type than float32."""


def narrow(mutant: Mutant) -> dict[str, Any]:
    features = ("fp8-kv",) if mutant.killed_by == "gather" else ()
    return {"dtypes": DTYPES.get(mutant.id), "features": features}


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.file.endswith(".cu")], ids=lambda m: m.id)
def test_kill_cache_kernels(mutant: Mutant, tmp_path: Path) -> None:
    kernels = plant(mutant, tmp_path)
    for seed in SEEDS:
        text = killed(mutant, kernels, seed=seed, profile="default", **narrow(mutant))
        assert text is not None, f"{mutant.id} lives with seed {seed}"
        assert re.search(place_of(mutant.killed_by), text), text


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.file.endswith(".py")], ids=lambda m: m.id)
def test_kill_cache_prefixes(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant.file.startswith("kernels/"):
        planted = load_mutated(mutant, "pabench.kernels.cascade")
        monkeypatch.setattr(rawkernel_cascade, "plan_cascade", planted.plan_cascade)
    else:
        planted = load_mutated(mutant, "pabench.problem.prefix")
        monkeypatch.setattr(cascade, "prefix_groups", planted.prefix_groups)
    features = ("sinks",) if mutant.id == "cascade-sink-twice" else ()
    for seed in SEEDS:
        kernels = resource_dir("kernels_cuda")
        text = killed(mutant, kernels, seed=seed, features=features)
        assert text is not None, f"{mutant.id} lives with seed {seed}"
        assert re.search(place_of(mutant.killed_by), text), text
