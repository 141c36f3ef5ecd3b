# SPDX-License-Identifier: Apache-2.0
"""Caches whose K and V differ, are one, or have gaps: rules, views, strides, spellings."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from pabench.errors import InvalidCase
from pabench.problem import Batch, Case, Problem, build_tensors, case_from_dict
from pabench.problem.features import all_features
from pabench.problem.prefix import private_copies
from pabench.problem.problem import CACHE_FEATURES
from pabench.problem.tensors import sequences_of
from pabench.strategies.attention import cases

LATENT: dict[str, Any] = {"num_kv_heads": 1, "head_dim_v": 16, "latent": True, "sm_scale": 0.1}
PLAIN: dict[str, Any] = {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 24, "page_size": 4}


def case(**fields: Any) -> Case:
    problem = Problem(**{**PLAIN, **fields.pop("problem", {})})
    return Case(problem=problem, batch=Batch(kv_lens=(9, 0, 4)), poison="nan", **fields)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"head_dim_v": 0}, "head_dim_v = 0: must be at least 1"),
        ({"head_dim_v": 1025}, "head_dim_v = 1025: must be at most 1024"),
        ({"head_dim_v": 1.5}, "head_dim_v = 1.5: must be a whole number"),
        ({"latent": 1}, "latent = 1: must be true or false"),
        (
            LATENT | {"head_dim_v": 25},
            "head_dim_v = 25: must be at most head_dim = 24: values of a latent cache lie in its keys",
        ),
        (
            LATENT | {"num_kv_heads": 2},
            "num_kv_heads = 2: must be 1 with a latent cache: it holds one vector a token",
        ),
        (
            LATENT | {"sm_scale": None},
            "sm_scale = None: must be given with a latent cache: it is that of the heads before absorption",
        ),
        (
            LATENT | {"kv_dtype": "e4m3", "v_scale": (1.0,)},
            "v_scale = (1.0,): must be None with a latent cache: its values are keys, and have k_scale",
        ),
    ],
)
def test_caches_refuse_what_contradicts_itself(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidCase) as caught:
        Problem(**{**PLAIN, **fields})
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"page_gaps": (1,)}, "page_gaps = (1,): must have 2 entries, for K and for V"),
        ({"page_gaps": (-1, 0)}, "page_gaps[0] = -1: must be at least 0"),
        ({"page_gaps": 3}, "page_gaps = 3: must be a list of token counts"),
        ({"problem": LATENT, "interleaved": True}, "interleaved = True: must be false with a latent cache"),
        ({"problem": LATENT, "page_gaps": (0, 8)}, "page_gaps[1] = 8: must be 0 with a latent cache"),
        ({"problem": LATENT, "row_gaps": (0, 8)}, "row_gaps[1] = 8: must be 0 with a latent cache"),
        ({"row_gaps": (1, -2)}, "row_gaps[1] = -2: must be at least 0"),
        (
            {"starts": (0, 4), "interleaved": True},
            "starts[1] = 4: must be 0 where K and V lie side by side in a page",
        ),
        (
            {"problem": {"kv_dtype": "int8-token-head"}, "page_gaps": (4, 2)},
            "page_gaps[1] = 2: must be a multiple of 4 where rows hold their scales",
        ),
    ],
)
def test_caches_refuse_pools_that_cannot_be(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidCase) as caught:
        case(**fields)
    assert str(caught.value) == line


def test_caches_leave_old_cases_their_ids_and_have_one_spelling() -> None:
    plain = case()
    assert not {"head_dim_v", "latent"} & plain.to_dict()["problem"].keys()
    assert "page_gaps" not in plain.to_dict()
    assert case(problem={"head_dim_v": 24}) == plain
    assert plain.id == "9a7a352e0c6fc5ea"


@settings(max_examples=30)
@given(
    cases(required=CACHE_FEATURES[:1], max_head_dim=72)
    | cases(required=CACHE_FEATURES[1:3], max_head_dim=72)
    | cases(required=CACHE_FEATURES[3:])
)
def test_caches_are_read_back_from_json_property(drawn: Case) -> None:
    assert case_from_dict(json.loads(json.dumps(drawn.to_dict()))) == drawn
    assert drawn.features <= set(all_features())


def test_caches_features_are_those_asked_for() -> None:
    assert case(problem={"head_dim_v": 16}).features == {"head-dim-v"}
    assert case(problem=LATENT).features == {"latent-cache"}
    assert case(page_gaps=(0, 3)).features == {"page-gaps"}
    assert case(row_gaps=(0, 3)).features == case(starts=(1, 0)).features == {"kv-strides"}


FORMS: list[dict[str, Any]] = [
    {"problem": LATENT},
    {"problem": LATENT, "page_gaps": (3, 0), "kv_layout": "HND"},
    {"problem": {"head_dim_v": 16}},
    {"problem": {"head_dim_v": 40}, "kv_layout": "HND", "interleaved": True},
    {"problem": {"head_dim_v": 40}, "page_gaps": (5, 0), "interleaved": True},
    {"page_gaps": (8, 3)},
    {"page_gaps": (0, 1), "kv_layout": "HND"},
    {"row_gaps": (8, 3)},
    {"row_gaps": (0, 5), "starts": (7, 2), "kv_layout": "HND"},
    {"row_gaps": (1, 2), "starts": (3, 0), "page_gaps": (4, 9), "interleaved": True},
    {"problem": LATENT, "row_gaps": (8, 0), "starts": (5, 0), "page_gaps": (3, 0)},
    {"problem": {"head_dim_v": 40}, "starts": (0, 9)},
]


@pytest.mark.parametrize("form", FORMS)
def test_caches_views_have_the_strides_that_are_told(form: dict[str, Any]) -> None:
    tensors = build_tensors(case(**form, spare_pages=2))
    problem, pool = tensors.case.problem, tensors.pool
    page = (4, problem.num_kv_heads) if pool.kv_layout == "NHD" else (problem.num_kv_heads, 4)
    for kind, view, size in (("k", pool.k, problem.head_dim), ("v", pool.v, problem.value_dim)):
        assert np.shares_memory(view, pool.storage)
        assert view.shape == (pool.num_pages, *page, size)
        steps = [stride // view.itemsize for stride in view.strides[:3]]
        token, head = (1, 2) if pool.kv_layout == "NHD" else (2, 1)
        assert pool.strides(kind) == (steps[0], steps[token], steps[head])
    assert np.shares_memory(pool.k, pool.v) == problem.latent
    assert pool.num_pages == tensors.layout.num_pages


@pytest.mark.parametrize("form", FORMS)
def test_caches_hold_their_tokens_and_poison_in_gaps(form: dict[str, Any]) -> None:
    tensors = build_tensors(case(**form, spare_pages=2))
    problem = tensors.case.problem
    sequences = sequences_of(tensors)
    numbers = sum(rows.keys.size + (0 if problem.latent else rows.values.size) for rows in sequences)
    # every other number of the pool is poison
    assert np.isnan(tensors.pool.storage).sum() == tensors.pool.storage.size - numbers
    for rows in sequences:
        assert not np.isnan(rows.keys).any()
        if problem.latent:
            np.testing.assert_array_equal(rows.values, rows.keys[..., : problem.value_dim])


@pytest.mark.parametrize("form", FORMS)
def test_caches_are_copied_page_by_page(form: dict[str, Any]) -> None:
    shared = {"shared_prefix": ((2, 0, 1),)}
    tensors = build_tensors(case(**form, **shared))
    apart = private_copies(tensors)
    assert apart.pool.num_pages == 3 + 0 + 1
    for mine, theirs in zip(sequences_of(apart), sequences_of(tensors), strict=True):
        np.testing.assert_array_equal(mine.keys, theirs.keys)
        np.testing.assert_array_equal(mine.values, theirs.values)


def test_caches_latent_keys_have_the_logits_that_are_asked_for() -> None:
    whole = case(problem=LATENT | {"head_dim_v": 24}, family="ascending")
    for drawn in (case(problem=LATENT, family="ascending"), whole):
        tensors = build_tensors(replace(drawn, batch=Batch(kv_lens=(9,))))
        keys, query = sequences_of(tensors)[0].keys[:, 0], tensors.q[0, 0]
        logits = keys.astype(np.float64) @ query * tensors.case.problem.scale
        np.testing.assert_allclose(logits, np.linspace(-40, 40, 9), atol=2.0)
        # and the part behind the values is not all that they hang on
        values = keys[:, :16].astype(np.float64) @ query[:16] * tensors.case.problem.scale
        assert np.abs(values).max() > 0.1
