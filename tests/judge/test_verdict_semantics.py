# SPDX-License-Identifier: Apache-2.0
"""Faults in the features, simulated: each leaves the bound and is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.selftest.simulated import Make

PLAIN = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=32, page_size=8)
SLOPES, SINKS = (0.5, 0.25, 0.125, 0.0625), (1.0, 2.0, 3.0, 0.5)
FP8 = replace(PLAIN, kv_dtype="e4m3", k_scale=(2.0, 0.5), v_scale=(0.25, 3.0))


@pytest.mark.parametrize(
    ("asked", "solved", "words"),
    [
        ({"window": 9}, {"window": 8}, "its first key missing"),
        ({"window": 9}, {"window": 10}, "one key before its window (10 in place of 9)"),
        ({"window": 9}, {}, "no window (40 keys in place of 9)"),
        ({"soft_cap": 1.5}, {}, "no soft cap"),
        ({"alibi_slopes": SLOPES}, {}, "no ALiBi bias"),
        ({"alibi_slopes": SLOPES}, {"alibi_slopes": (-0.5, -0.25, -0.125, -0.0625)}, "of the other sign"),
        ({"alibi_slopes": SLOPES}, {"alibi_slopes": (0.5, 0.5, 0.125, 0.125)}, "slope of query head 0"),
        ({"sinks": SINKS}, {}, "its sink left out"),
        ({"window": 9, "sinks": SINKS}, {"sinks": SINKS}, "no window"),
    ],
)
def test_verdict_names_a_mistaken_feature(asked: dict[str, Any], solved: dict[str, Any], words: str) -> None:
    case = Case(problem=replace(PLAIN, **asked), batch=Batch(kv_lens=(40, 40)), seed=1)
    tensors, rng = build_tensors(case), np.random.default_rng(0)
    make = Make()
    assert judge(tensors, *make.run(tensors, rng), make.profile).passed
    other = replace(tensors, case=replace(case, problem=replace(PLAIN, **solved)))
    verdict = judge(tensors, *make.run(other, rng), make.profile)
    assert not verdict.passed
    assert f"the output matches {words}" in verdict.text or words in verdict.text, verdict.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k_scale": None}, "keys without their scale"),
        ({"v_scale": None}, "values without their scale"),
        ({"k_scale": FP8.v_scale, "v_scale": FP8.k_scale}, "the scales of keys and values swapped"),
        ({"v_scale": FP8.k_scale}, "the scale of the keys on the values too"),
        ({"k_scale": FP8.v_scale}, "the scale of the values on the keys too"),
    ],
)
def test_verdict_names_mistaken_scales(change: dict[str, Any], words: str) -> None:
    case = Case(problem=FP8, batch=Batch(kv_lens=(40, 40)), seed=1)
    tensors, rng, make = build_tensors(case), np.random.default_rng(0), Make(early_scale=True)
    assert judge(tensors, *make.run(tensors, rng), make.profile).passed
    other = replace(tensors, case=replace(case, problem=replace(FP8, **change)))
    verdict = judge(tensors, *make.run(other, rng), make.profile)
    assert not verdict.passed
    assert words in verdict.text, verdict.text


def test_verdict_names_rows_that_hold_only_their_sink() -> None:
    problem = replace(PLAIN, sinks=SINKS)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(0, 5))))
    out, lse = Make().run(tensors, np.random.default_rng(0))
    assert judge(tensors, out, lse, Make().profile).passed
    lse[0] = -np.inf
    verdict = judge(tensors, out, lse, Make().profile)
    assert "the row sees no key (kv_len 0), so its output is 0 and its lse its sink" in verdict.text
