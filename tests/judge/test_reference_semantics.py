# SPDX-License-Identifier: Apache-2.0
"""Truth and bound of the features: against the plain second implementation, by hand, and on right kernels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pabench.judge.naive import naive_attention
from pabench.judge.reference import truth
from pabench.judge.traffic import attention_flops, decode_traffic
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, NumericsProfile, Problem, Tensors, build_tensors
from pabench.selftest.calibration import KINDS, random_case, trial

U32 = 2.0**-24
PROFILE = NumericsProfile(tanh_error=2.0**-11)
TRIALS = 40


@pytest.mark.parametrize("kind", KINDS)
def test_reference_semantics_agree_with_the_naive_implementation(kind: str) -> None:
    for number in range(TRIALS):
        case = random_case(kind, np.random.default_rng([KINDS.index(kind), number]), longest=40)
        tensors = build_tensors(case)
        found, (out, lse) = truth(tensors, PROFILE), naive_attention(tensors)
        np.testing.assert_array_equal(np.isneginf(lse), np.isneginf(found.lse))
        seen = ~np.isneginf(lse)
        assert (np.abs(out - found.out) <= 1e-6 * found.out_bound).all(), case
        assert (np.abs(lse[seen] - found.lse[seen]) <= 1e-6 * found.lse_bound[seen]).all(), case
        assert np.isfinite(found.out_bound).all()
        assert (found.lse_bound[seen] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_bound_semantics_hold_for_right_kernels(kind: str) -> None:
    ratios = []
    for number in range(TRIALS):
        case, make, verdict = trial(kind, number)
        assert verdict.passed, f"{make} {case}: {verdict.text}"
        ratios.append(verdict.max_ratio)
    # not vacuous: rounding of the output alone comes near the bound
    assert max(ratios) > 0.5


def one_row(**features: Any) -> tuple[Tensors, Any, Any, Any]:
    """A decode row of one head, and its query, keys and values as float64."""
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=40, page_size=16, **features)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(50,)), placement="identity", seed=4))
    k, v = (view.reshape(-1, 40)[:50].astype(np.float64) for view in (tensors.pool.k, tensors.pool.v))
    return tensors, tensors.q[0, 0].astype(np.float64), k, v


def test_bound_semantics_equal_the_formula_written_out() -> None:
    cap, slope, sink, window, tanh_error = 3.0, 0.125, 1.5, 20, 2.0**-11
    tensors, q, k, v = one_row(soft_cap=cap, alibi_slopes=(slope,), sinks=(sink,), window=window)
    found = truth(tensors, NumericsProfile(tanh_error=tanh_error))
    k, v, scale = k[-window:], v[-window:], tensors.case.problem.scale
    raw = scale * (k @ q)
    error = 2 * (32 + 40 / 32 + 3) * U32 * scale * (np.abs(k) @ np.abs(q)) + 4 * U32 * np.abs(raw)
    error *= 1 - np.tanh(np.maximum(np.abs(raw) - error, 0) / cap) ** 2
    capped = cap * np.tanh(raw / cap)
    error += tanh_error * cap + 6 * U32 * np.abs(capped)
    bias = slope * np.arange(1 - window, 1.0)
    error += 4 * U32 * np.abs(bias) + 2 * U32 * np.abs(capped)
    s = np.append(capped + bias, sink)
    v, error = np.vstack([v, np.zeros(40)]), np.append(error, 0.0)
    error += U32 * (6 + 2 * (s.max() - s)) + 2 * U32 * np.abs(s)
    total = np.exp(s - s.max()).sum()
    p, lse = np.exp(s - s.max()) / total, s.max() + math.log(total)
    out, drift, chain = p @ v, p * np.expm1(error), 2 * (21 + 21 / 32 + 8) * U32
    bound = drift @ np.abs(v - out) + (2 * U32 + chain) * (p @ np.abs(v))
    bound += 2.0**-126 * np.abs(v).sum(0) / total + U32 * np.abs(out)
    np.testing.assert_allclose(found.out[0, 0], out, rtol=1e-12)
    np.testing.assert_allclose(found.lse[0, 0], lse, rtol=1e-12)
    np.testing.assert_allclose(found.out_bound[0, 0], bound, rtol=1e-9)
    expected = drift.sum() + chain + 8 * U32 + 2 * U32 * abs(lse)
    np.testing.assert_allclose(found.lse_bound[0, 0], expected, rtol=1e-9)


def test_bound_semantics_of_scales_are_two_more_roundings() -> None:
    problem = Problem(
        num_qo_heads=1, num_kv_heads=1, head_dim=8, page_size=4, kv_dtype="e4m3", v_scale=(3.0,)
    )
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(9,)), family="constant-value"))
    found = truth(tensors, NumericsProfile(partial_dtype=None))
    chain = 2 * (9 + 9 / 32 + 8) * U32
    relative = U32 + 2 * U32 + chain + U32  # weights, scale, sum, output
    np.testing.assert_allclose(found.out_bound, relative * np.abs(found.out), rtol=1e-3)


@pytest.mark.parametrize(("scale", "times"), [(8.0, 8.0), (0.25, 1.0)])
def test_bound_semantics_scale_the_underflow_of_partial_outputs(scale: float, times: float) -> None:
    problem = Problem(
        num_qo_heads=1, num_kv_heads=1, head_dim=8, page_size=4, kv_dtype="e4m3", v_scale=(scale,)
    )
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(9,)), family="constant-value"))
    whole = truth(tensors, NumericsProfile(partial_dtype=None))
    parts = truth(tensors, NumericsProfile(partial_dtype="float16"))
    more = parts.out_bound - whole.out_bound - 2.0**-11 * np.abs(whole.out)
    np.testing.assert_allclose(more, 2.0**-25 * times, rtol=1e-6)


@pytest.mark.parametrize("features", [{}, {"soft_cap": 20.0}, {"alibi_slopes": (0.5,)}, {"sinks": (1.0,)}])
def test_bound_semantics_give_nothing_to_a_key_of_logit_minus_infinity(features: dict[str, Any]) -> None:
    tensors, *_ = one_row(**features)
    tensors.q[...] = np.abs(tensors.q) + 0.1
    silent = tensors.pool.with_storage(tensors.pool.storage.copy())
    silent.k.reshape(-1, 40)[10:20] = -np.inf
    found = truth(replace(tensors, pool=silent), PROFILE)
    assert np.isfinite(found.out_bound).all()
    assert np.isfinite(found.lse_bound).all()
    assert (found.out_bound > 0).all()
    if "soft_cap" not in features:  # a cap makes the logit -20
        silent.v.reshape(-1, 40)[10:20] = 100.0
        again = truth(replace(tensors, pool=silent), PROFILE)
        np.testing.assert_array_equal(again.out, found.out)


def test_reference_semantics_of_rows_that_see_nothing() -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=8, page_size=4)
    case = Case(problem=problem, batch=Batch(kv_lens=(0, 2), q_lens=(1, 4)), poison="nan")
    plain = truth(build_tensors(case), PROFILE)
    assert np.isneginf(plain.lse[:3]).all()
    assert not plain.out[:3].any()
    assert not plain.out_bound[:3].any()
    sunk = truth(build_tensors(replace(case, problem=replace(problem, sinks=(2.5, -7.0)))), PROFILE)
    assert sunk.lse[:3].tolist() == [[2.5, -7.0]] * 3
    assert not sunk.out[:3].any()
    assert (sunk.lse_bound[:3] < 1e-4).all()


def test_reference_semantics_that_change_nothing() -> None:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=4)
    case = Case(problem=problem, batch=Batch(kv_lens=(30, 7), q_lens=(5, 9)), seed=2)
    tensors, plain = build_tensors(case), truth(build_tensors(case), PROFILE)
    for change in (
        {"window": 31},
        {"alibi_slopes": (0.0,) * 4},
        {"sinks": (-1e4,) * 4},
        {"soft_cap": 2.0**20},
    ):
        other = replace(tensors, case=replace(case, problem=replace(problem, **change)))
        found = truth(other, PROFILE)
        np.testing.assert_allclose(found.out, plain.out, rtol=1e-9, atol=1e-12)
        seen = ~np.isneginf(plain.lse)
        np.testing.assert_allclose(found.lse[seen], plain.lse[seen], rtol=1e-10)


def test_reference_semantics_of_sinks_scale_the_output_and_stand_in_the_lse() -> None:
    tensors, *_ = one_row()
    plain = truth(tensors, PROFILE)
    case = tensors.case
    sunk = replace(tensors, case=replace(case, problem=replace(case.problem, sinks=(2.0,))))
    found = truth(sunk, PROFILE)
    np.testing.assert_allclose(found.lse, np.logaddexp(plain.lse, 2.0), rtol=1e-14)
    share = np.exp(plain.lse - found.lse)[..., None]
    np.testing.assert_allclose(found.out, plain.out * share, rtol=1e-12)


def test_traffic_counts_the_window_only() -> None:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=4, window=6)
    found = decode_traffic(problem, (11, 3, 0))
    assert (found.tokens, found.pages) == (6 + 3, 2 + 1)
    assert found.flops == 4 * 4 * 16 * 9
    layout = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(11, 3, 0)))).layout
    assert decode_traffic(problem, (11, 3, 0), layout=layout) == found
    rows = Batch(kv_lens=(10,), q_lens=(3,))
    assert attention_flops(problem, rows) == 4 * 4 * 16 * 18
    assert attention_flops(replace(problem, window=None), rows) == 4 * 4 * 16 * (8 + 9 + 10)


@pytest.mark.parametrize(("kind", "number"), [("sinks", 9987), ("alibi", 23866), ("all", 3183)])
def test_reference_semantics_simulated_partials_have_the_range_of_their_case(kind: str, number: int) -> None:
    """Values of bfloat16 beyond float16: a kernel whose partial outputs are float16 would overflow."""
    case, make, verdict = trial(kind, number)
    assert case.problem.dtype == "bfloat16"
    assert make.splits > 1
    assert make.partial_dtype == "float32"
    assert verdict.passed
    short, tensors = replace(make, partial_dtype="float16"), build_tensors(case)
    with np.errstate(all="ignore"):
        out, lse = short.run(tensors, np.random.default_rng(0))
    assert not judge(tensors, out, lse, short.profile).passed
