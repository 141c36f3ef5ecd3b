# SPDX-License-Identifier: Apache-2.0
"""The kill matrix of lists of keys in the tensor-core decode kernels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pabench.selftest.mutants import Mutant, load_mutants
from tests.support.kill_support import killed, place_of, plant

MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "key_lists.toml")
LATENT: dict[str, Any] = {"backend": "rawkernel-mla", "max_head_dim": 24}
"""Of faults in the kernel over latent caches; the others need no more than head_dim 16."""


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_matrix_lists_kills(mutant: Mutant, tmp_path: Path) -> None:
    mask = mutant.killed_by.removeprefix("masked[").removesuffix("]")
    latent = mutant.file == "paged_decode_latent.cu"
    text = killed(
        mutant,
        plant(mutant, tmp_path),
        profile="default",
        features=(mask, "latent-cache") if latent else (mask,),
        **(LATENT if latent else {"backend": "rawkernel-mma"}),
    )
    assert text is not None, f"{mutant.id} lives"
    assert re.search(place_of(mutant.killed_by), text), text
