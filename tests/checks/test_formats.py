# SPDX-License-Identifier: Apache-2.0
"""The table of formats: every row is drawn, judged by two spellings, its mistakes die and are named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pabench.checks.case_budget import CASE_BUDGETS
from pabench.checks.questions.formats import format_question
from pabench.device.registry import open_device
from pabench.judge.naive import naive_attention
from pabench.judge.reference import truth
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, NumericsProfile, Problem, build_tensors
from pabench.problem.dtypes import E4M3, INT4
from pabench.problem.features import all_features
from pabench.problem.formats import FORMATS, CacheFormat
from pabench.problem.formats.mistakes import no_scale
from pabench.strategies import cases
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from tests.support.kill_support import ask
from tests.support.masked_numpy import MaskedNumpy

DEVICE = open_device("emulated")
FEW = replace(CASE_BUDGETS["quick"], shrink=False)
MISTAKES = [(row.name, words) for row in FORMATS.values() for words in row.mistakes]
DIMS = {"e4m3-packed-128": 192, "nvfp4": 80, "mxfp8": 80}
"""Of formats whose scales are of blocks, with several of them."""


def small(name: str, **fields: Any) -> st.SearchStrategy[Case]:
    row = FORMATS[name]
    asked = {"required": [row.feature], "head_dims": [DIMS.get(name, 16)], "max_len": 40, "max_seqs": 2}
    return cases(**{**asked, "dtypes": ["bfloat16"], **fields})


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_formats_two_spellings_agree_and_our_kernel_is_right_property(name: str, data: st.DataObject) -> None:
    features = ["window", "sinks", "soft-cap"]
    case = data.draw(small(name, poisons=["nan", "inf", "huge"], features=features))
    tensors = build_tensors(case)
    found = truth(tensors, NumericsProfile())
    if case.problem.num_qo_heads * case.problem.head_dim * sum(case.batch.kv_lens) < 3000:
        out, lse = naive_attention(tensors)
        np.testing.assert_allclose(found.out, out, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.lse, lse, rtol=1e-9)
    backend = RawKernelBackend(DEVICE)
    output = attend(backend, tensors)
    verdict = judge(tensors, output.out, output.lse, backend.profile)
    assert verdict.passed, verdict.text


@pytest.mark.parametrize(("name", "words"), MISTAKES)
def test_formats_mistakes_die_and_are_named(name: str, words: str) -> None:
    row = FORMATS[name]
    record = ask(format_question(row), MaskedNumpy(taken=row.mistakes[words]), DEVICE, case_budget=FEW)
    assert record.outcome is not None
    assert not record.outcome.passed
    assert words in record.outcome.text


@pytest.mark.parametrize("kinds", ["k", "v"])
def test_formats_mistaken_keys_and_values_are_told_apart(kinds: str) -> None:
    row = FORMATS["int8-token-head"]
    words = "its scales left out"
    record = ask(format_question(row), MaskedNumpy(taken=no_scale, kinds=kinds), DEVICE, case_budget=FEW)
    assert record.outcome is not None
    assert f"{ {'k': 'keys', 'v': 'values'}[kinds] } with {words}" in record.outcome.text


def test_formats_right_kernels_pass() -> None:
    for row in FORMATS.values():
        record = ask(format_question(row), MaskedNumpy(), DEVICE, case_budget=FEW)
        assert record.outcome is None or record.outcome.passed, record.outcome
        assert record.cases > 10


def test_formats_a_new_one_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = CacheFormat(
        name="int4-by-8",
        feature="kv-int4-by-8",
        clause="F99",
        about="A cache of int4 with an e4m3 scale for 8 numbers.",
        numbers=INT4,
        scale=E4M3,
        block=8,
        tensor_scale=True,
        mistakes={"its scales left out": no_scale},
    )
    monkeypatch.setitem(FORMATS, odd.name, odd)
    assert odd.feature in all_features()
    question = format_question(odd)
    ours = RawKernelBackend(DEVICE)
    can = replace(ours.capabilities, features=frozenset({odd.feature}), dtypes=frozenset({"bfloat16"}))
    object.__setattr__(ours, "capabilities", can)
    for backend in (MaskedNumpy(), ours):
        record = ask(question, backend, DEVICE, case_budget=FEW)
        assert record.cases > 10
        assert record.outcome is None or record.outcome.passed, record.outcome
    wrong = ask(question, MaskedNumpy(taken=no_scale), DEVICE, case_budget=FEW)
    assert wrong.outcome is not None
    assert "its scales left out" in wrong.outcome.text
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=20, page_size=4, kv_dtype=odd.name)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(9,)), poison="nan"))
    out, lse = naive_attention(tensors)
    found = truth(tensors, NumericsProfile())
    np.testing.assert_allclose(found.out, out, rtol=1e-12)
    np.testing.assert_allclose(found.lse, lse, rtol=1e-12)
