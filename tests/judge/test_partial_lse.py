# SPDX-License-Identifier: Apache-2.0
"""Right kernels that merge parts by their LSE: within the bound when they declare it, beyond it when not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pabench.errors import InvalidCase
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, NumericsProfile, Problem, Tensors, build_tensors
from pabench.problem.tensors import lay_out, sequences_of
from pabench.selftest.simulated import Make


def constant_values(family: str, *, sinks: bool = False, seed: int = 0) -> Tensors:
    """Logits of a family over values that are all the same, where no error of a single weight shows."""
    problem = Problem(
        num_qo_heads=2, num_kv_heads=1, head_dim=8, page_size=16, sinks=(150.0, -2.0) if sinks else None
    )
    case = Case(problem=problem, batch=Batch(kv_lens=(64, 3)), family=family, seed=seed)
    return lay_out(
        case,
        [replace(rows, values=np.full_like(rows.values, 1.5)) for rows in sequences_of(build_tensors(case))],
    )


@pytest.mark.parametrize("base2", [False, True])
@pytest.mark.parametrize("family", ["far-negative", "huge", "all-negative", "waves"])
def test_partial_lse_right_kernels_are_within_what_they_declare(family: str, base2: bool) -> None:
    make = Make(splits=3, lse_merge=True, base2=base2)
    for seed in range(4):
        for sinks in (False, True):
            tensors = constant_values(family, sinks=sinks, seed=seed)
            verdict = judge(tensors, *make.run(tensors, np.random.default_rng(seed)), make.profile)
            assert verdict.passed, verdict.text


def test_partial_lse_is_no_secret() -> None:
    make, tensors = Make(splits=3, lse_merge=True), constant_values("far-negative")
    out, lse = make.run(tensors, np.random.default_rng(0))
    verdict = judge(tensors, out, lse, replace(make.profile, partial_lse=False))
    assert not verdict.passed
    assert verdict.max_ratio > 1.46


def test_partial_lse_declared_does_not_excuse_a_wrong_base() -> None:
    make, tensors = Make(splits=3, lse_merge=True), constant_values("waves")
    out, lse = make.run(tensors, np.random.default_rng(0))
    verdict = judge(tensors, out, (lse / np.log(2.0)).astype(np.float32), make.profile)
    assert not verdict.passed
    assert "a base-2 LSE in place of natural log" in verdict.text


def test_partial_lse_needs_parts() -> None:
    with pytest.raises(InvalidCase, match="partial_lse = True: needs a partial_dtype"):
        NumericsProfile(partial_dtype=None, partial_lse=True)
    with pytest.raises(InvalidCase, match="partial_lse = 1: must be true or false"):
        NumericsProfile(partial_lse=1)  # type: ignore[arg-type]
