# SPDX-License-Identifier: Apache-2.0
"""The kill matrix of rows that hold their scales in the tensor-core decode kernel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pabench.resources import resource_dir
from pabench.selftest.mutants import Mutant, load_mutants
from tests.support.kill_support import examine, killed, place_of, plant

BACKEND = "rawkernel-mma"
MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "decode_rows.toml")


def narrow(mutant: Mutant) -> dict[str, Any]:
    """Declare little, so that few instances are compiled, and what shows the fault."""
    label = mutant.killed_by.partition("[")[2].rstrip("]")
    dtypes = ["float16"] if "half-its-bits" in mutant.id else None
    widest = 80 if label == "kv-nvfp4" else 128 if "wide" in mutant.id else 16
    return {"backend": BACKEND, "features": (label,), "dtypes": dtypes, "max_head_dim": widest}


@pytest.mark.parametrize("label", sorted({mutant.killed_by for mutant in MUTANTS}))
def test_kill_rows_passes_the_right_kernel(label: str) -> None:
    features = (label.partition("[")[2].rstrip("]"), "window", "soft-cap", "sinks", "non-causal")
    notebook = examine(label, resource_dir("kernels_cuda"), backend=BACKEND, features=features)
    assert notebook.outcome is None
    assert notebook.cases >= 15


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_rows(mutant: Mutant, tmp_path: Path) -> None:
    kernels = plant(mutant, tmp_path)
    text = killed(mutant, kernels, profile="quick", **narrow(mutant))
    assert text is not None, f"{mutant.id} lives"
    assert re.search(place_of(mutant.killed_by), text), text
