# SPDX-License-Identifier: Apache-2.0
"""The judge against a second implementation of truth and bound, on torch, over everything that is drawn."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.judge.gather import gather_tokens, query_numbers, to_float64
from pabench.judge.merge import merge_truth
from pabench.judge.reference import Truth, truth
from pabench.problem import Case, NumericsProfile, build_tensors
from pabench.problem.dtypes import Array, dtype_by_name
from pabench.problem.features import all_features
from pabench.problem.masks import MASKS
from pabench.problem.merge import MergeCase, build_merge
from pabench.problem.problem import FEATURES
from pabench.problem.tensors import Tensors
from pabench.strategies.attention import cases
from pabench.strategies.cache import merge_cases
from pabench.strategies.lengths import prefill_batches, speculative_batches
from pabench.strategies.masks import mask_batches
from tests.support.torch_truth import Found, torch_merge_truth, torch_truth

BATCHES = (None, speculative_batches, prefill_batches)
TYPES = (None, "storage", "float32", "float16", "bfloat16")


def _profile(**fields: Any) -> NumericsProfile:
    """A profile; without partial outputs there is no LSE of them."""
    fields["partial_lse"] &= fields["partial_dtype"] is not None
    return NumericsProfile(**fields)


PROFILES = st.builds(
    _profile,
    p_dtype=st.sampled_from(TYPES[1:]),
    partial_dtype=st.sampled_from(TYPES),
    kv_dtype=st.sampled_from(TYPES),
    accumulation=st.sampled_from(["blocked", "serial"]),
    tanh_error=st.sampled_from([0.0, 2.0**-11]),
    partial_lse=st.booleans(),
)
HOPELESS = 1e20
FLOAT64 = 2.0**-50
"""Some roundings of float64."""


def assert_same(found: Truth, other: Found, *, logit: float, value: float) -> None:
    """Assert that both agree as far as float64 lets them: the bounds are of far coarser arithmetic.

    Args:
        found: numpy's.
        other: torch's.
        logit: the largest sum of magnitudes of a logit: its float64 rounding is the weights', relative.
        value: the largest magnitude of a value: a distance from the output, where they are close, keeps no
            more than its float64 rounding.
    """
    out, lse, out_bound, lse_bound = other
    np.testing.assert_array_equal(np.isneginf(found.lse), np.isneginf(lse))
    relative, output = FLOAT64 * logit, FLOAT64 * value * (1 + logit)
    # the bound of the LSE holds the sum of the drifts that the distances are weighted with
    absolute = np.broadcast_to(output * (1 + lse_bound[..., None]), out_bound.shape)
    # both are float64, so they agree far below the bound of a float32 kernel
    seen = ~np.isneginf(lse)
    assert (np.abs(found.out - out) <= 1e-6 * out_bound + output).all()
    assert (np.abs(found.lse[seen] - lse[seen]) <= 1e-6 * lse_bound[seen] + FLOAT64 * (1 + logit)).all()
    for mine, theirs, noise in (
        (found.out_bound, out_bound, absolute),
        (found.lse_bound, lse_bound, np.zeros_like(lse_bound)),
    ):
        # a hopeless bound is the exponential of a huge number: that number agrees
        useful = np.minimum(mine, theirs) < HOPELESS  # where they differ much, either comparison sees it
        allowed = (1e-9 + relative) * theirs + noise
        assert (np.abs(mine - theirs)[useful] <= allowed[useful]).all()
        mine, theirs, noise = np.log(mine[~useful]), np.log(theirs[~useful]), noise[~useful] / theirs[~useful]
        assert (np.abs(mine - theirs) <= (1e-9 + relative) * theirs + noise).all()


def sizes(tensors: Tensors) -> dict[str, float]:
    """Return the arguments of ``assert_same`` for the keys and values that are stored."""
    problem = tensors.case.problem
    largest = {"k": 0.0, "v": 0.0}
    for sequence, length in enumerate(tensors.kv_lens.tolist()):
        for name in largest:
            stored = gather_tokens(tensors, sequence, name, 0, length)
            largest[name] = max(largest[name], _largest(stored))
    q = np.abs(query_numbers(tensors)).sum(-1)
    slope = max((abs(one) for one in problem.alibi_slopes or (0.0,)), default=0.0)
    bias = slope * max(tensors.kv_lens.tolist(), default=0)
    return {"logit": abs(problem.scale) * _largest(q) * largest["k"] + bias, "value": largest["v"]}


def _largest(numbers: Array) -> float:
    """The largest magnitude that is finite."""
    return float(np.max(np.abs(numbers), initial=0.0, where=np.isfinite(numbers)))


@pytest.mark.parametrize("feature", [None, *all_features()])
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_torch_truth_is_the_judges_property(feature: str | None, data: st.DataObject) -> None:
    batch, without = data.draw(st.sampled_from(BATCHES)), frozenset[str]()
    if (mask := MASKS.get(feature or "")) is not None:
        # lists, trees and ranks say something of lengths
        batch, without = partial(mask_batches, mask=mask, rows=data.draw(st.booleans())), mask.without
    case: Case = data.draw(
        cases(
            placements=("shuffled", "identity", "reversed"),
            head_dims=(8, 40, 64),
            max_head_dim=72,
            features=sorted(set(FEATURES) - without) if feature else (),
            required=(feature,) if feature else (),
            sharing=mask is None,
            batch=batch,
        )
    )
    tensors, profile = build_tensors(case), data.draw(PROFILES)
    assert_same(truth(tensors, profile), torch_truth(tensors, profile), **sizes(tensors))


@settings(max_examples=100, deadline=None)
@given(merge_cases(head_dims=(8, 40)))
def test_torch_truth_of_merging_is_the_judges_property(case: MergeCase) -> None:
    outs, lses = build_merge(case)
    dtype = dtype_by_name(case.dtype)
    found = merge_truth(outs, lses, dtype)
    largest = {"logit": _largest(lses), "value": _largest(to_float64(outs, dtype))}
    assert_same(found, torch_merge_truth(outs, lses, dtype), **largest)
