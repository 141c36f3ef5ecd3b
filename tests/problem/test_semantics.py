# SPDX-License-Identifier: Apache-2.0
"""Fields beyond plain attention: validation, JSON, ids, visible keys, e4m3."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pabench.errors import InvalidCase
from pabench.problem import Batch, Case, Problem, build_tensors, case_from_dict
from pabench.problem.dtypes import E4M3, Array, decode, encode
from pabench.problem.problem import FEATURES
from pabench.problem.visibility import first_visible_key, visible_range

PLAIN = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=8, page_size=4)
FULL = replace(
    PLAIN,
    causal=False,
    soft_cap=30.0,
    window=7,
    alibi_slopes=(0.5, 0.25, 0.0, -1.0, 2.0, 3.0),
    sinks=(0.0, 1.0, -2.0, 40.0, -400.0, 0.5),
    kv_dtype="e4m3",
    k_scale=(0.5,),
    v_scale=(2.0, 0.125),
)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"soft_cap": 0}, "soft_cap = 0: must be at least 9.53674e-07"),
        ({"soft_cap": math.nan}, "soft_cap = nan: must be finite"),
        ({"soft_cap": -30.0}, "soft_cap = -30.0: must be at least"),
        ({"soft_cap": "30"}, "soft_cap = '30': must be a number"),
        ({"window": 0}, "window = 0: must be at least 1"),
        ({"window": -4}, "window = -4: must be at least 1"),
        ({"window": 4.0}, "window = 4.0: must be a whole number"),
        ({"window": True}, "window = True: must be a whole number, not a boolean"),
        ({"alibi_slopes": (1.0, 2.0)}, "alibi_slopes = (1.0, 2.0): must have 6 entries"),
        ({"alibi_slopes": 0.5}, "alibi_slopes = 0.5: must be a list of numbers"),
        ({"alibi_slopes": (0, 0, 0, math.nan, 0, 0)}, "alibi_slopes[3] = nan: must be finite"),
        ({"alibi_slopes": "abcdef"}, "alibi_slopes = 'abcdef': must have 6 entries"),
        ({"sinks": (1.0,) * 5}, "sinks = (1.0, 1.0, 1.0, 1.0, 1.0): must have 6 entries"),
        ({"sinks": (0, math.inf, 0, 0, 0, 0)}, "sinks[1] = inf: must be finite"),
        ({"sinks": (1e9,) * 6}, "sinks[0] = 1000000000.0: must be at most"),
        ({"kv_dtype": "e5m3"}, "kv_dtype = 'e5m3': must be one of e4m3, e5m2, int8, int8-token-head, "),
        ({"kv_dtype": ["e4m3"]}, "kv_dtype = ['e4m3']: must be one of e4m3, e5m2, "),
        (
            {"kv_dtype": "mxfp8", "k_scale": (1.0,)},
            "k_scale = (1.0,): needs kv_dtype = one of e4m3, e5m2, int8, nvfp4",
        ),
        ({"k_scale": (1.0,)}, "k_scale = (1.0,): needs kv_dtype = one of e4m3, e5m2, int8, nvfp4"),
        ({"kv_dtype": "e4m3", "k_scale": (0.0,)}, "k_scale[0] = 0.0: must be at least"),
        ({"kv_dtype": "e4m3", "v_scale": (1.0, math.nan)}, "v_scale[1] = nan: must be finite"),
        ({"kv_dtype": "e4m3", "v_scale": (1.0, 1.0, 1.0)}, "v_scale = (1.0, 1.0, 1.0): must have 1 or 2"),
        ({"kv_dtype": "e4m3", "k_scale": 1.0}, "k_scale = 1.0: must be a list of numbers"),
    ],
)
def test_problem_semantics_rejects(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidCase) as caught:
        replace(PLAIN, **change)
    assert str(caught.value).startswith(text)


def test_problem_semantics_round_trip_and_stay_out_of_plain_cases() -> None:
    case = Case(problem=FULL, batch=Batch(kv_lens=(5, 9), q_lens=(2, 3)))
    again = case_from_dict(json.loads(json.dumps(case.to_dict())))
    assert again == case
    assert again.id == case.id
    plain = replace(case, problem=PLAIN).to_dict()["problem"]
    names = {"num_qo_heads", "num_kv_heads", "head_dim", "page_size", "dtype", "causal", "sm_scale"}
    assert set(plain) == names
    ids = {replace(case, problem=replace(PLAIN, **{name: value})).id for name, value in _single().items()}
    assert len(ids) == len(_single())
    with pytest.raises(InvalidCase, match="unknown field 'windows'"):
        case_from_dict({**case.to_dict(), "problem": {**plain, "windows": 3}})


def _single() -> dict[str, Any]:
    return {name: getattr(FULL, name) for name in ("soft_cap", "window", "alibi_slopes", "sinks", "kv_dtype")}


def test_problem_semantics_names_its_features() -> None:
    assert FULL.features == set(FEATURES)
    assert PLAIN.features == set()
    decode_case = Case(problem=FULL, batch=Batch(kv_lens=(5,)))
    assert decode_case.features == set(FEATURES) - {"non-causal"}
    assert replace(decode_case, batch=Batch(kv_lens=(5,), q_lens=(2,))).features == set(FEATURES)


def test_problem_semantics_of_an_e4m3_cache() -> None:
    assert FULL.token_bytes == 2 * 2 * 8
    assert FULL.kv_scales("k") == (0.5, 0.5)
    assert FULL.kv_scales("v") == (2.0, 0.125)
    assert replace(PLAIN, kv_dtype="e4m3").kv_scales("k") == (1.0, 1.0)


@given(
    q_len=st.integers(0, 9),
    kv_len=st.integers(0, 12),
    window=st.none() | st.integers(1, 15),
    causal=st.booleans(),
)
def test_visible_range_equals_the_rule_property(
    q_len: int, kv_len: int, window: int | None, causal: bool
) -> None:
    problem = replace(PLAIN, window=window, causal=causal)
    first, last = visible_range(problem, q_len, kv_len)
    union: set[int] = set()
    for i in range(q_len):
        position = kv_len - q_len + i
        seen = [
            j
            for j in range(kv_len)
            if (j <= position or not causal) and (window is None or position - j < window)
        ]
        assert list(range(first[i], last[i])) == seen
        union |= set(seen)
    assert first_visible_key(problem, q_len, kv_len) == min(union, default=0)


# --- e4m3 -------------------------------------------------------------------------------------------------


def test_e4m3_decodes_every_bit_pattern_like_torch() -> None:
    bits = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(bits).view(torch.float8_e4m3fn).double().numpy()
    np.testing.assert_array_equal(decode(bits, E4M3), expected)
    assert np.signbit(decode(bits, E4M3))[[0x80, 0x81]].all()
    assert np.isnan(expected).sum() == 2


def points() -> Array:
    """Every number, the ties between neighbours, a double to either side of each, and noise."""
    exact = decode(np.arange(127, dtype=np.uint8), E4M3)
    ties = (exact[1:] + exact[:-1]) / 2
    near = np.concatenate([exact, ties])
    near = np.concatenate([near, np.nextafter(near, np.inf), np.nextafter(near, -np.inf)])
    noise = np.random.default_rng(0).normal(0.0, 1.0, 5000) * 2.0 ** np.random.default_rng(1).integers(
        -12, 9, 5000
    )
    return np.concatenate([near, -near, noise])


def test_e4m3_rounds_to_the_nearest_even() -> None:
    values = points()
    values = values[np.abs(values) <= 448.0]
    grid = decode(np.arange(127, dtype=np.uint8), E4M3)
    got = encode(values, E4M3)
    error = np.abs(decode(got, E4M3) - values)
    assert (error <= np.abs(np.abs(values)[:, None] - grid).min(axis=1)).all()
    tie = np.isin(np.abs(values), (grid[1:] + grid[:-1]) / 2)
    assert tie.sum() >= 250
    assert (got[tie] % 2 == 0).all()
    assert (np.signbit(values) == (got >= 0x80)).all()
    # torch rounds from float32, which these are
    single = values.astype(np.float32)
    expected = torch.from_numpy(single).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(encode(single, E4M3), expected)


def test_e4m3_saturates_and_keeps_nan() -> None:
    values = np.array([448.0, 464.0, 1e9, np.inf, -449.0, -np.inf, np.nan, -0.0, 2.0**-11])
    assert encode(values, E4M3).tolist() == [0x7E, 0x7E, 0x7E, 0x7E, 0xFE, 0xFE, 0x7F, 0x80, 0x00]


# --- inputs -----------------------------------------------------------------------------------------------


def test_tensors_poison_what_slid_out_of_every_window() -> None:
    problem = replace(PLAIN, window=3, kv_dtype="e4m3")
    case = Case(
        problem=problem, batch=Batch(kv_lens=(9, 2), q_lens=(2, 1)), placement="identity", poison="nan"
    )
    dead = np.isnan(decode(build_tensors(case).pool.k, E4M3))[..., 0, 0].reshape(-1)
    # rows at 7 and 8 see keys 5..7 and 6..8; the second sequence begins in page 3
    assert np.flatnonzero(~dead).tolist() == [5, 6, 7, 8, 12, 13]
    left = build_tensors(replace(case, poison="zero")).pool.k[..., 0, 0].reshape(-1)
    assert (left[:9] != 0).sum() >= 8


def test_tensors_scale_an_e4m3_cache_to_the_same_keys() -> None:
    batch = Batch(kv_lens=(40,))
    scaled = replace(PLAIN, kv_dtype="e4m3", k_scale=(0.25, 4.0), v_scale=(2.0,))
    plain = build_tensors(Case(problem=PLAIN, batch=batch, placement="identity"))
    found = build_tensors(Case(problem=scaled, batch=batch, placement="identity"))
    for view, scale, expected in (
        (found.pool.k, np.array([0.25, 4.0])[:, None], plain.pool.k),
        (found.pool.v, 2.0, plain.pool.v),
    ):
        error = np.abs(decode(view, E4M3) * scale - expected)
        assert (error <= 2.0**-4 * np.abs(expected) + 4.0 * 2.0**-10).all()


def test_window_edge_family_guards_both_sides() -> None:
    problem = replace(PLAIN, window=5, sm_scale=1.0)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(12,)), family="window-edge"))
    pages, query = tensors.layout.pages(0, 12), tensors.q[0, 0].astype(np.float64)
    keys = tensors.pool.k[pages].reshape(12, 2, 8)[:, 0].astype(np.float64)
    logits = keys @ query
    assert logits.argmax() == 6
    assert logits[7:].argmax() == 0
    assert logits[7] > 20
