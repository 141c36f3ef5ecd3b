"""The judge against a second implementation of truth and bound, on torch, over everything that is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.judge.merge import merge_truth
from pabench.judge.reference import Truth, truth
from pabench.problem import Case, ComputeProfile, build_tensors
from pabench.problem.dtypes import dtype_by_name
from pabench.problem.merge import MergeCase, build_merge
from pabench.problem.problem import FEATURES
from pabench.strategies.attention import cases
from pabench.strategies.cache import merge_cases
from pabench.strategies.lengths import prefill_batches, speculative_batches
from tests.support.torch_truth import Found, torch_merge_truth, torch_truth

BATCHES = (None, speculative_batches, prefill_batches)
TYPES = (None, "storage", "float32", "float16", "bfloat16")
PROFILES = st.builds(
    ComputeProfile,
    p_dtype=st.sampled_from(TYPES[1:]),
    partial_dtype=st.sampled_from(TYPES),
    kv_dtype=st.sampled_from(TYPES),
    accumulation=st.sampled_from(["blocked", "serial"]),
    tanh_error=st.sampled_from([0.0, 2.0**-11]),
)
HOPELESS = 1e20


def assert_same(found: Truth, other: Found) -> None:
    out, lse, out_bound, lse_bound = other
    np.testing.assert_array_equal(np.isneginf(found.lse), np.isneginf(lse))
    # both are float64, so they agree far below the bound of a float32 kernel
    seen = ~np.isneginf(lse)
    assert (np.abs(found.out - out) <= 1e-6 * out_bound).all()
    assert (np.abs(found.lse[seen] - lse[seen]) <= 1e-6 * lse_bound[seen]).all()
    for mine, theirs in ((found.out_bound, out_bound), (found.lse_bound, lse_bound)):
        # a hopeless bound is the exponential of a huge number: that number agrees
        useful = theirs < HOPELESS
        np.testing.assert_array_equal(mine < HOPELESS, useful)
        np.testing.assert_allclose(mine[useful], theirs[useful], rtol=1e-9)
        np.testing.assert_allclose(np.log(mine[~useful]), np.log(theirs[~useful]), rtol=1e-9)


@pytest.mark.parametrize("feature", [None, *FEATURES])
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_torch_truth_is_the_judges_property(feature: str | None, data: st.DataObject) -> None:
    case: Case = data.draw(
        cases(
            placements=("shuffled", "identity", "reversed"),
            head_dims=(8, 40, 64),
            features=FEATURES if feature else (),
            required=(feature,) if feature else (),
            sharing=True,
            batch=data.draw(st.sampled_from(BATCHES)),
        )
    )
    tensors, profile = build_tensors(case), data.draw(PROFILES)
    assert_same(truth(tensors, profile), torch_truth(tensors, profile))


@settings(max_examples=100, deadline=None)
@given(merge_cases(head_dims=(8, 40)))
def test_torch_truth_of_merging_is_the_judges_property(case: MergeCase) -> None:
    outs, lses = build_merge(case)
    dtype = dtype_by_name(case.dtype)
    assert_same(merge_truth(outs, lses, dtype), torch_merge_truth(outs, lses, dtype))
