# SPDX-License-Identifier: Apache-2.0
"""Queries of e4m3, and scales of each sequence and KV head: truth, bound, our kernel, causes by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.errors import InvalidCase
from pabench.judge.naive import naive_attention
from pabench.judge.reference import truth
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, NumericsProfile, Problem, build_tensors, case_from_dict
from pabench.problem.dtypes import encode
from pabench.strategies.attention import cases
from pabench.strategies.lengths import prefill_batches
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from tests.support.probe import DEVICE

EXACT = NumericsProfile()
REQUIRED = (
    ("fp8-q",),
    ("fp8-q", "kv-e5m2"),
    ("sequence-scales", "fp8-kv"),
    ("sequence-scales", "kv-int8", "fp8-q"),
    ("sequence-scales", "kv-nvfp4"),
    ("sequence-scales", "fp8-kv", "fp8-q", "latent-cache"),
)
PROBLEM = Problem(
    num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=4, kv_dtype="e4m3", q_dtype="e4m3", sm_scale=1.0
)
BATCH = Batch(kv_lens=(9, 20))
SCALES = {
    "q": [[1.0, 2.0], [0.5, 4.0]],
    "k": [[0.25, 1.0], [2.0, 0.5]],
    "v": [[1.0, 3.0], [0.1, 7.0]],
}


def drawn(required: tuple[str, ...], **changes: Any) -> st.SearchStrategy[Case]:
    sizes: dict[str, Any] = {"head_dims": [16], "max_head_dim": 24, "max_len": 40, "max_seqs": 3} | changes
    found = cases(required=required, features=["window", "soft-cap"], **sizes)
    return found.filter(lambda case: case.problem.num_qo_heads <= 5)


@pytest.mark.parametrize("required", REQUIRED, ids="+".join)
@settings(max_examples=6, deadline=None)
@given(st.data())
def test_scales_naive_truth_agrees_property(required: tuple[str, ...], data: st.DataObject) -> None:
    case = data.draw(drawn(required, max_len=15))
    assert set(required) <= case.features
    assert case_from_dict(json.loads(json.dumps(case.to_dict()))) == case
    tensors = build_tensors(case)
    found, (out, lse) = truth(tensors, EXACT), naive_attention(tensors)
    np.testing.assert_allclose(found.out, out, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.lse, lse, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("required", REQUIRED, ids="+".join)
@settings(max_examples=6, deadline=None)
@given(st.data())
def test_scales_our_kernel_is_right_property(required: tuple[str, ...], data: st.DataObject) -> None:
    several = data.draw(st.booleans())
    case = data.draw(drawn(required, dtypes=["float16"], batch=prefill_batches if several else None))
    tensors, backend = build_tensors(case), RawKernelBackend(DEVICE)
    found = attend(backend, tensors)
    verdict = judge(tensors, found.out, found.lse, backend.profile)
    assert verdict.passed, verdict.text


def with_scales(**changed: list[list[float]]) -> Case:
    scales: Any = {**SCALES, **changed}
    return Case(problem=PROBLEM, batch=BATCH, family="spotlight", scales=scales)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"q": [[1.0, 1.0], [1.0, 1.0]]}, "queries without their scale"),
        ({"q": SCALES["q"][::-1]}, "the scale of the queries of sequence 0 in place of 1"),
        (
            {"k": SCALES["k"][::-1], "v": SCALES["v"][::-1]},
            "the cache's scales of sequence 0 in place of 1",
        ),
        (
            {kind: rows[::-1] for kind, rows in SCALES.items()},
            "the scales of sequence 0 in place of 1",
        ),
    ],
)
def test_scales_that_are_mistaken_are_named(wrong: dict[str, list[list[float]]], words: str) -> None:
    """The answer is right for other scales: that of sequence 1 says so, alone."""
    right = build_tensors(with_scales())
    mistaken, own = truth(replace(right, case=with_scales(**wrong)), EXACT), truth(right, EXACT)
    mixed = [
        np.where(np.arange(2) == 1, a.T, b.T).T for a, b in ((mistaken.out, own.out), (mistaken.lse, own.lse))
    ]
    found = judge(right, encode(mixed[0], PROBLEM.storage), mixed[1].astype(np.float32), EXACT)
    assert not found.passed
    assert words in [cause.words for cause in found.causes], found.text


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"scales": {"p": []}}, "scales = {'p': []}: must be an object with fields q, k or v"),
        ({"scales": 3}, "scales = 3: must be an object with fields q, k or v"),
        ({"scales": {"k": [[1.0, 1.0]]}}, "scales.k = [[1.0, 1.0]]: must have a row for each of 2 sequences"),
        ({"scales": {"k": [[1.0], [1.0, 1.0]]}}, "scales.k[0] = [1.0]: must have 2 entries"),
        ({"scales": {"v": [[1.0, 0.0], [1.0, 1.0]]}}, "scales.v[0][1] = 0.0: must be at least"),
        (
            {"scales": SCALES, "problem": replace(PROBLEM, q_scale=(2.0,))},
            "scales.q = [[1.0, 2.0], [0.5, 4.0]]: must be left out beside q_scale",
        ),
        (
            {"scales": SCALES, "problem": replace(PROBLEM, kv_dtype="mxfp8")},
            "scales.k = [[0.25, 1.0], [2.0, 0.5]]: must be left out: such numbers have no scale here",
        ),
    ],
)
def test_scales_that_contradict_the_case_are_refused(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidCase) as caught:
        Case(**{"problem": PROBLEM, "batch": BATCH, **fields})
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"q_dtype": "e5m2"}, "q_dtype = 'e5m2': must be one of e4m3"),
        ({"q_scale": (1.0,)}, "q_scale = (1.0,): needs q_dtype = one of e4m3"),
        (
            {"q_dtype": "e4m3", "q_scale": (1.0, 2.0, 3.0)},
            "q_scale = (1.0, 2.0, 3.0): must have 1 or 2 entries",
        ),
    ],
)
def test_scales_of_queries_are_refused_by_rule(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidCase) as caught:
        Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=4, **fields)
    assert str(caught.value) == line
