# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pabench.judge.reference import truth
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, NumericsProfile, Problem, Tensors, build_tensors
from pabench.problem.dtypes import DTYPES, Array, encode

PROFILE = NumericsProfile()


def make(dtype: str = "float16", **change: Any) -> Tensors:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=4, dtype=dtype)
    return build_tensors(
        replace(Case(problem=problem, batch=Batch(kv_lens=(7, 0, 21)), poison="nan"), **change)
    )


def right(tensors: Tensors) -> tuple[Array, Array]:
    found = truth(tensors, PROFILE)
    return encode(found.out, tensors.case.problem.storage), found.lse.astype(np.float32)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_verdict_passes_the_rounded_truth(dtype: str) -> None:
    tensors = make(dtype)
    verdict = judge(tensors, *right(tensors), PROFILE)
    assert verdict.passed
    assert 0 < verdict.max_ratio < 1
    assert verdict.checked == 3 * 4 * 17
    assert (verdict.row, verdict.quantity) == (None, None)
    assert "192 outputs and 12 lse within the bound" in verdict.text


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_verdict_fails_one_number_that_is_none(bad: float) -> None:
    tensors = make()
    out, lse = right(tensors)
    out[2, 3, 5] = bad
    verdict = judge(tensors, out, lse, PROFILE)
    assert not verdict.passed
    assert (verdict.quantity, verdict.row, verdict.sequence, verdict.head, verdict.dim) == ("out", 2, 2, 3, 5)
    assert verdict.max_ratio == math.inf
    assert "sequence 2, query head 3, dim 5: err/T inf" in verdict.text
    assert "1 of 192 outputs" in verdict.text


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_verdict_wants_minus_infinity_for_an_empty_row(bad: float) -> None:
    tensors = make()
    out, lse = right(tensors)
    lse[1, 2] = bad
    verdict = judge(tensors, out, lse, PROFILE)
    assert (verdict.passed, verdict.quantity, verdict.dim) == (False, "lse", None)
    assert "sequence 1, query head 2, lse" in verdict.text
    assert "sees no key" in verdict.text


def test_verdict_wants_exact_zero_for_an_empty_row() -> None:
    tensors = make()
    out, lse = right(tensors)
    out[1, 0, 0] = -0.0
    assert judge(tensors, out, lse, PROFILE).passed
    out[1, 0, 0] = np.float16(6e-8)
    assert not judge(tensors, out, lse, PROFILE).passed


def test_verdict_stands_at_the_bound() -> None:
    tensors = make("float32")
    found = truth(tensors, PROFILE)
    out, lse = right(tensors)
    for factor, passed in ((0.9, True), (1.1, False), (-0.9, True), (-1.1, False)):
        moved = out.copy()
        moved[2, 1, 7] = found.out[2, 1, 7] + factor * found.out_bound[2, 1, 7]
        verdict = judge(tensors, moved, lse, PROFILE)
        assert verdict.passed is passed
        assert verdict.max_ratio == pytest.approx(abs(factor), rel=0.05)
        moved_lse = lse.astype(np.float64)
        moved_lse[2, 1] = found.lse[2, 1] + factor * found.lse_bound[2, 1]
        assert judge(tensors, out, moved_lse.astype(np.float32), PROFILE).passed is passed


def test_verdict_allows_infinity_only_where_the_bound_reaches_it() -> None:
    tensors = make(family="constant-value")
    # values at the largest number: rounding up once gives infinity
    storage = tensors.pool.storage.copy()
    storage[1][np.isfinite(storage[1])] = np.float16(65504)
    tensors = replace(tensors, pool=tensors.pool.with_storage(storage))
    out, lse = right(tensors)
    assert judge(tensors, out, lse, PROFILE).passed
    out[2, 0, 0] = np.inf
    assert judge(tensors, out, lse, PROFILE).passed
    out[2, 0, 0] = -np.inf
    assert not judge(tensors, out, lse, PROFILE).passed


def test_verdict_follows_a_truth_that_is_nan() -> None:
    tensors = make()
    storage = tensors.pool.storage.copy()
    storage[1, int(tensors.layout.block_table[0, 0]), 0, 0, 3] = np.nan
    tensors = replace(tensors, pool=tensors.pool.with_storage(storage))
    out, lse = right(tensors)
    assert np.isnan(out[0, 0, 3])
    assert judge(tensors, out, lse, PROFILE).passed
    out[0, 0, 3] = 1.0
    assert not judge(tensors, out, lse, PROFILE).passed


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda out, lse: (out[:2], lse), r"out has shape (2, 4, 16), must be (3, 4, 16)"),
        (lambda out, lse: (out.astype(np.float32), lse), "out has dtype float32, must be float16"),
        (lambda out, lse: (out.tolist(), lse), "out is list, must be a numpy array"),
        (lambda out, lse: (out, lse.T), "lse has shape (4, 3), must be (3, 4)"),
        (lambda out, lse: (out, lse.astype(np.float64)), "lse has dtype float64, must be float32"),
        (lambda out, lse: (out, None), "lse is missing"),
        (lambda out, lse: (None, lse), "out is NoneType"),
    ],
)
def test_verdict_puts_a_wrong_shape_or_type_into_words(spoil: Any, words: str) -> None:
    tensors = make()
    out, lse = spoil(*right(tensors))
    verdict = judge(tensors, out, lse, PROFILE)
    assert (verdict.passed, verdict.max_ratio, verdict.checked) == (False, math.inf, 0)
    assert words in verdict.text


def test_verdict_lets_the_lse_be_missing_when_told() -> None:
    tensors = make()
    out, _ = right(tensors)
    assert judge(tensors, out, None, PROFILE, allow_missing_lse=True).passed
    out[0] = 9.0
    assert not judge(tensors, out, None, PROFILE, allow_missing_lse=True).passed


def test_verdict_uses_the_reference_it_is_given() -> None:
    tensors = make()
    other = truth(replace(tensors, q=-tensors.q), PROFILE)
    assert not judge(tensors, *right(tensors), PROFILE, reference=other).passed


def test_verdict_says_that_an_output_was_never_written() -> None:
    tensors = make()
    out, lse = right(tensors)
    out.view(np.uint8)[...] = 0xFF
    assert "never written" in judge(tensors, out, lse, PROFILE).text


def test_verdict_names_an_output_of_zeros_and_the_row_of_another_sequence() -> None:
    tensors = make(batch=Batch(kv_lens=(7, 5, 21)))
    out, lse = right(tensors)
    zeros, empty = np.zeros_like(out), np.full_like(lse, -np.inf)
    assert "as for a row that sees no key" in judge(tensors, zeros, empty, PROFILE).text
    out[0], lse[0] = out[1], lse[1]
    assert "the right output of sequence 1, query row 1" in judge(tensors, out, lse, PROFILE).text


@pytest.mark.parametrize("sinks", [None, (0.5, -2.0, 3.0, 0.25)])
def test_verdict_names_the_bounds_that_leave_a_row_no_key(sinks: tuple[float, ...] | None) -> None:
    tensors = make()
    problem = replace(tensors.case.problem, sinks=sinks)
    tensors = build_tensors(replace(tensors.case, problem=problem, batch=Batch(kv_lens=(1,))))
    out, lse = right(tensors)
    empty = np.full_like(lse, -np.inf) if sinks is None else np.array([sinks], dtype=lse.dtype)
    verdict = judge(tensors, np.zeros_like(out), empty, PROFILE)
    assert "its last key missing (bound 0 in place of 1)" in verdict.text
    assert "its last key missing" in [cause.name for cause in verdict.causes]


def test_verdict_wants_the_infinity_of_the_truth_whatever_the_bound() -> None:
    tensors = make()
    out, lse = right(tensors)
    found = truth(tensors, PROFILE)
    expected, bound = found.out.copy(), found.out_bound.copy()
    expected[0, 0, 0], bound[0, 0, 0] = np.inf, np.inf
    reference = replace(found, out=expected, out_bound=bound)
    assert not judge(tensors, out, lse, PROFILE, reference=reference).passed
    out[0, 0, 0] = np.inf
    assert judge(tensors, out, lse, PROFILE, reference=reference).passed
