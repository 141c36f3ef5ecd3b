# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pabench.judge.bound import logit_weight, rounding_of
from pabench.judge.gather import gather_tokens, to_float64
from pabench.judge.reference import Truth, truth
from pabench.problem import Batch, Case, NumericsProfile, Problem, Tensors, build_tensors
from pabench.problem.dtypes import DTYPES, E4M3, FLOAT16, FLOAT32, Array
from pabench.problem.families import FAMILIES

U32 = 2.0**-24
U = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
ETA = {"float32": 2.0**-150, "float16": 2.0**-25, "bfloat16": 2.0**-134}
HEAD_DIM = 40


def make(family: str = "normal", dtype: str = "float16", kv_len: int = 50) -> Tensors:
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=HEAD_DIM, page_size=16, dtype=dtype)
    return build_tensors(Case(problem=problem, batch=Batch(kv_lens=(kv_len,)), family=family, poison="nan"))


def by_hand(tensors: Tensors, profile: NumericsProfile, head: int) -> tuple[Array, float]:
    """T and T_lse of one row, written out once more from the formulas, in numpy."""
    problem, n = tensors.case.problem, int(tensors.kv_lens[0])
    q = to_float64(tensors.q[0, head], problem.storage)
    k = gather_tokens(tensors, 0, "k", 0, n, head=0)
    v = gather_tokens(tensors, 0, "v", 0, n, head=0)
    s, g = problem.scale * (k @ q), problem.scale * (np.abs(k) @ np.abs(q))
    e = np.exp(s - s.max())
    total = e.sum()
    p, lse = e / total, s.max() + np.log(total)
    o = p @ v
    if profile.accumulation == "serial":
        l_qk, l_pv = HEAD_DIM + 3.0, n + 8.0
    else:
        l_qk, l_pv = min(HEAD_DIM, 32) + HEAD_DIM / 32 + 3, min(n, 32) + n / 32 + 8
    u_k = eta_k = 0.0
    if profile.kv_dtype and profile.kv_dtype not in ("float32", problem.dtype):
        u_k, eta_k = U[profile.kv_dtype], ETA[profile.kv_dtype]
    u_t = U[profile.partial_dtype] if profile.partial_dtype else 0.0
    eta_t = ETA[profile.partial_dtype] if profile.partial_dtype else 0.0
    error = 2 * l_qk * U32 * g + u_k * g + U32 * (6 + 2 * np.minimum(np.abs(s - s.max()), 200))
    error += 2 * U32 * np.abs(s) + eta_k * problem.scale * np.abs(q).sum()
    drift = p * np.expm1(error)
    bound = drift @ np.abs(v - o) + (U[profile.p_dtype] + u_t + u_k + 2 * l_pv * U32) * (p @ np.abs(v))
    bound += max(ETA[profile.p_dtype], 2.0**-126) * np.abs(v).sum(0) / total + eta_t + eta_k
    bound += U[problem.dtype] * np.abs(o) + ETA[problem.dtype]
    return bound, drift.sum() + (2 * l_pv + 8) * U32 + 2 * U32 * abs(lse)


PROFILES = (
    NumericsProfile(),
    NumericsProfile(p_dtype="float16", partial_dtype=None),
    NumericsProfile(p_dtype="bfloat16", partial_dtype="bfloat16", kv_dtype="bfloat16"),
    NumericsProfile(kv_dtype="float16", accumulation="serial"),
)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_bound_equals_the_formula_written_out(profile: NumericsProfile, dtype: str) -> None:
    for family in ("normal", "ascending", "cancelling-value", "huge"):
        tensors = make(family, dtype)
        found = truth(tensors, profile)
        for head in range(2):
            bound, lse_bound = by_hand(tensors, profile, head)
            np.testing.assert_allclose(found.out_bound[0, head], bound, rtol=1e-9)
            np.testing.assert_allclose(found.lse_bound[0, head], lse_bound, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_bound_is_positive_and_finite(family: str, dtype: str) -> None:
    found = truth(make(family, dtype), NumericsProfile())
    assert (found.out_bound > 0).all()
    assert np.isfinite(found.out_bound).all()
    assert (found.lse_bound > 0).all()


def logit_share(tensors: Tensors) -> Array:
    """What the logits' error adds: the bound of a kernel with exact everything else taken away."""
    profile = NumericsProfile(kv_dtype="bfloat16")
    relative = 2.0**-24 * 2 + 2.0**-8 + 2 * (32 + 50 / 32 + 8) * U32 + U[tensors.case.problem.dtype]
    found: Truth = truth(tensors, profile)
    share: Array = found.out_bound / (relative * np.abs(found.out)) - 1.0
    return share


def test_bound_of_logits_vanishes_for_constant_values_and_one_dominating_key() -> None:
    # the keys are rounded to 8 bits, which moves all logits; the output does not care
    for family in ("constant-value", "one-hot"):
        assert (np.abs(logit_share(make(family, "float32"))) < 1e-9).all()
    assert (logit_share(make("normal", "float32")) > 0.01).all()


def test_bound_grows_with_every_coarser_declaration() -> None:
    tensors = make("normal", "float32")
    base = truth(tensors, NumericsProfile()).out_bound
    for profile in (
        NumericsProfile(p_dtype="float16"),
        NumericsProfile(partial_dtype="bfloat16"),
        NumericsProfile(kv_dtype="bfloat16"),
        NumericsProfile(accumulation="serial"),
    ):
        assert (truth(tensors, profile).out_bound > base).all()
    assert (truth(tensors, NumericsProfile(partial_dtype=None)).out_bound < base).all()


def test_bound_is_tight_in_units_of_the_output() -> None:
    # a float32 kernel on fp16 storage may be off by one rounding of the output and little more
    found = truth(make("constant-value"), NumericsProfile())
    assert (found.out_bound <= 1.1 * FLOAT16.unit_roundoff * np.abs(found.out) + 1e-7).all()


def test_bound_knows_exact_conversions() -> None:
    assert rounding_of(NumericsProfile(kv_dtype="float32"), FLOAT16).u_k == 0
    assert rounding_of(NumericsProfile(kv_dtype="float16"), FLOAT16).u_k == 0
    assert rounding_of(NumericsProfile(kv_dtype="float16"), FLOAT32).u_k == FLOAT16.unit_roundoff


def test_bound_stays_a_number_for_enormous_logits() -> None:
    tensors = make("normal", "float32")
    big = replace(tensors, q=tensors.q * np.float32(1e30))
    found = truth(big, NumericsProfile())
    assert np.isfinite(found.out).all()
    assert not np.isnan(found.out_bound).any()
    assert not np.isnan(found.lse_bound).any()


def test_bound_weighs_a_key_that_its_error_lifts_from_nothing() -> None:
    relative = np.array([-1000.0, -1000.0, -1.0, -2.0, -np.inf])
    error = np.array([1100.0, 1e5, 1e-12, 1.5, 3.0])
    expected = [np.exp(100.0), np.exp(700.0), np.exp(-1.0) * 1e-12, np.exp(-0.5) - np.exp(-2.0), 0.0]
    np.testing.assert_allclose(logit_weight(relative, np.exp(relative), error), expected, rtol=1e-10)


def test_bound_of_a_cache_rounded_to_the_type_of_the_queries() -> None:
    profile = NumericsProfile(kv_dtype="storage")
    assert rounding_of(profile, FLOAT16, E4M3).u_k == FLOAT16.unit_roundoff
    # a conversion that does not take place costs nothing, nor does widening
    assert rounding_of(profile, FLOAT16).u_k == rounding_of(profile, FLOAT32, E4M3).u_k == 0.0
