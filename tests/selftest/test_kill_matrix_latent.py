# SPDX-License-Identifier: Apache-2.0
"""The kill matrix of the tensor-core kernel over latent caches."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pabench.selftest.mutants import Mutant, load_mutants
from tests.support.kill_support import killed, place_of, plant

MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "decode_latent.toml")
SMALL_LATENT = 24
"""``head_dim`` of the smallest latent cache: one instance for each height of a unit is compiled."""


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_matrix_latent_kills(mutant: Mutant, tmp_path: Path) -> None:
    text = killed(
        mutant,
        plant(mutant, tmp_path),
        profile="default",
        backend="rawkernel-mla",
        features=("latent-cache",),
        max_head_dim=SMALL_LATENT,
    )
    assert text is not None, f"{mutant.id} lives"
    assert re.search(place_of(mutant.killed_by), text), text
