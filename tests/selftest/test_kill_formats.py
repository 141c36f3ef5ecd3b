# SPDX-License-Identifier: Apache-2.0
"""The kill matrix of the formats of a cache: read, written, gathered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pabench.problem.formats import format_features
from pabench.selftest.mutants import Mutant, load_mutants
from tests.support.kill_support import killed, place_of, plant

MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "formats.toml")
WIDEST = {"stored[kv-nvfp4]": 80, "stored[kv-mxfp8]": 80, "stored[kv-e4m3-packed-128]": 192}


def narrow(mutant: Mutant) -> dict[str, Any]:
    """Declare little, so that few instances are compiled, and what shows the fault."""
    label = mutant.killed_by.partition("[")[2].rstrip("]")
    features = (label,) if label else tuple(name for name in format_features() if name != "fp8-kv")
    dtypes = ["bfloat16"] if "rounded-twice" in mutant.id else None
    widest = WIDEST.get(mutant.killed_by, 16 if label else 192)
    return {"features": features, "dtypes": dtypes, "max_head_dim": widest}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_formats(mutant: Mutant, tmp_path: Path) -> None:
    kernels = plant(mutant, tmp_path)
    profile = "default" if mutant.killed_by == "gather" else "quick"
    text = killed(mutant, kernels, profile=profile, **narrow(mutant))
    assert text is not None, f"{mutant.id} lives"
    assert re.search(place_of(mutant.killed_by), text), text
