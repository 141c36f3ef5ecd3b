# SPDX-License-Identifier: Apache-2.0
"""Input families that exist for one fault each: that fault leaves the bound, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, Problem, Tensors, build_tensors
from pabench.problem.dtypes import FLOAT16, Array, decode, encode
from pabench.problem.families import FAMILIES
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import sequences_of

PROFILE = NumericsProfile(p_dtype="float32", accumulation="serial")
LENGTH = 300
Fault = Callable[[Array, Array], tuple[Array, float]]
"""From logits ``(n,)`` and values ``(n, head_dim)``, both float64, to an output and its LSE."""


def right(logits: Array, values: Array) -> tuple[Array, float]:
    weights = np.exp(logits - logits.max())
    return weights @ values / weights.sum(), float(logits.max() + np.log(weights.sum()))


def finite_sentinel(logits: Array, values: Array) -> tuple[Array, float]:
    """A lane past the end holds -10,000 in place of minus infinity."""
    return right(np.append(logits, -1e4), np.vstack([values, np.zeros(values.shape[1])]))


def flushed_weights(logits: Array, values: Array) -> tuple[Array, float]:
    """Weights below 2^-14 are flushed to zero."""
    weights = np.exp(logits - logits.max())
    kept = np.where(weights < 2.0**-14, 0.0, weights)
    return kept @ values / weights.sum(), right(logits, values)[1]


def flushed_values(logits: Array, values: Array) -> tuple[Array, float]:
    """Values below 2^-14 are flushed to zero."""
    return right(logits, np.where(np.abs(values) < 2.0**-14, 0.0, values))


def half_accumulator(logits: Array, values: Array) -> tuple[Array, float]:
    """The sum before it is normalised is kept in float16."""
    weights = np.exp(logits - logits.max())
    with np.errstate(over="ignore", invalid="ignore"):
        out = decode(encode(weights @ values, FLOAT16), FLOAT16) / weights.sum()
    return out, right(logits, values)[1]


def unweighted_splits(logits: Array, values: Array) -> tuple[Array, float]:
    """Two splits are merged by their sums alone, without their maxima."""
    halves = [slice(0, len(logits) // 2), slice(len(logits) // 2, None)]
    sums = [float(np.exp(logits[at] - logits[at].max()).sum()) for at in halves]
    outs = [right(logits[at], values[at])[0] for at in halves]
    return np.average(outs, axis=0, weights=sums), right(logits, values)[1]


FAULTS: dict[str, Fault] = {
    "waves": unweighted_splits,
    "faint": flushed_weights,
    "far-negative": finite_sentinel,
    "large-value": half_accumulator,
    "small-value": flushed_values,
}


def tensors_of(family: str, seed: int, **problem: object) -> Tensors:
    shape = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=16, dtype="float16", **problem)  # type: ignore[arg-type]
    return build_tensors(Case(problem=shape, batch=Batch(kv_lens=(LENGTH,)), family=family, seed=seed))


def passes(tensors: Tensors, compute: Fault) -> bool:
    (rows,) = sequences_of(tensors)
    problem = tensors.case.problem
    out, lse = np.empty((1, 2, 16)), np.empty((1, 2), np.float32)
    for head in range(2):
        q, k, v = (
            decode(x, problem.storage) for x in (rows.queries[0, head], rows.keys[:, 0], rows.values[:, 0])
        )
        out[0, head], lse[0, head] = compute(k @ q * problem.scale, v)
    return judge(tensors, encode(out, problem.storage), lse, PROFILE).passed


@pytest.mark.parametrize("family", FAULTS)
def test_families_show_the_fault_that_they_are_for(family: str) -> None:
    seen = [tensors_of(family, seed) for seed in range(3)]
    assert all(passes(tensors, right) for tensors in seen)
    assert not any(passes(tensors, FAULTS[family]) for tensors in seen)


@pytest.mark.parametrize("family", ["faint", "far-negative", "large-value", "small-value"])
def test_families_show_what_plain_numbers_do_not(family: str) -> None:
    assert all(passes(tensors_of("normal", seed), FAULTS[family]) for seed in range(3))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scales", [(0.001,), (1.0,), (300.0,)])
def test_families_stay_within_a_quantised_cache(family: str, scales: tuple[float, ...]) -> None:
    tensors = tensors_of(family, 1, kv_dtype="e4m3", k_scale=scales, v_scale=scales)
    (rows,) = sequences_of(tensors)
    values = np.abs(decode(rows.values, tensors.case.problem.kv_storage))
    assert np.isfinite(values).all()
    if family == "large-value":
        assert 0.7 * min(448.0, 65504.0 / scales[0]) < values.max() <= 448.0
    if family == "small-value":
        assert values.max() > 0
