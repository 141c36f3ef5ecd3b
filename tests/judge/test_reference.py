# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.errors import InvalidCase
from pabench.judge import reference
from pabench.judge.gather import gather_tokens, to_float64
from pabench.judge.naive import naive_attention
from pabench.judge.reference import truth
from pabench.problem import Batch, Case, NumericsProfile, Problem, Tensors, build_tensors
from pabench.problem.dtypes import DTYPES
from pabench.problem.families import FAMILIES
from pabench.problem.placement import PLACEMENTS
from pabench.problem.pool import KV_LAYOUTS

PROFILE = NumericsProfile()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kv_heads = draw(st.integers(1, 3))
    problem = Problem(
        num_qo_heads=kv_heads * draw(st.sampled_from([1, 3, 5, 7])),
        num_kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([1, 8, 17])),
        page_size=draw(st.sampled_from([1, 3, 16])),
        dtype=draw(st.sampled_from(sorted(DTYPES))),
        causal=draw(st.booleans()),
        sm_scale=draw(st.sampled_from([None, 1.0, -0.5, 0.0])),
    )
    kv_lens = draw(st.lists(st.integers(0, 40), min_size=1, max_size=3))
    q_lens = draw(st.lists(st.integers(0, 6), min_size=len(kv_lens), max_size=len(kv_lens)))
    return Case(
        problem=problem,
        batch=Batch(kv_lens=tuple(kv_lens), q_lens=tuple(q_lens)),
        kv_layout=draw(st.sampled_from(KV_LAYOUTS)),
        interleaved=draw(st.booleans()),
        family=draw(st.sampled_from(sorted(FAMILIES))),
        poison=draw(st.sampled_from(["nan", "inf", "huge"])),
        placement=draw(st.sampled_from([name for name in PLACEMENTS if name != "high"])),
        seed=draw(st.integers(0, 2**32)),
    )


def assert_agrees(tensors: Tensors) -> None:
    found = truth(tensors, PROFILE)
    out, lse = naive_attention(tensors)
    assert (np.isneginf(lse) == np.isneginf(found.lse)).all()
    seen = ~np.isneginf(lse)
    # both are float64, so they agree far below the bound of a float32 kernel
    assert (np.abs(out - found.out) <= 1e-6 * found.out_bound).all()
    assert (np.abs(lse[seen] - found.lse[seen]) <= 1e-6 * found.lse_bound[seen]).all()
    assert (found.out_bound[seen] > 0).all()
    assert np.isfinite(found.out_bound).all()
    assert (found.out[~seen] == 0).all()


@settings(max_examples=60, deadline=None)
@given(cases())
def test_reference_agrees_with_the_naive_implementation_property(case: Case) -> None:
    assert_agrees(build_tensors(case))


@pytest.mark.parametrize("block", [64, 1000])
def test_reference_is_the_same_in_small_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=8, page_size=4, dtype="float16")
    batch = Batch(kv_lens=(70, 0, 33), q_lens=(5, 2, 40))
    tensors = build_tensors(Case(problem=problem, batch=batch, family="ascending", poison="nan"))
    whole = truth(tensors, PROFILE)
    monkeypatch.setattr(reference, "BLOCK_ELEMENTS", block)
    assert_agrees(tensors)
    np.testing.assert_allclose(truth(tensors, PROFILE).out_bound, whole.out_bound, rtol=1e-9)
    np.testing.assert_allclose(truth(tensors, PROFILE).lse_bound, whole.lse_bound, rtol=1e-9)


def test_reference_agrees_with_50_digit_arithmetic() -> None:
    families = sorted(FAMILIES)
    with mpmath.workdps(50):
        for seed in range(100):
            problem = Problem(
                num_qo_heads=2, num_kv_heads=1, head_dim=4, page_size=3, dtype=sorted(DTYPES)[seed % 3]
            )
            case = Case(problem=problem, batch=Batch(kv_lens=(1 + seed % 13,)), seed=seed)
            tensors = build_tensors(replace(case, family=families[seed % len(families)]))
            found = truth(tensors, PROFILE)
            for head in range(2):
                out, lse, largest = exact_row(tensors, head)
                # what float64 itself may err: units of 2^-53 of the exponents, times the values
                slack = 32 * 2.0**-53 * (1 + float(abs(lse)))
                for dim in range(4):
                    assert abs(mpmath.mpf(float(found.out[0, head, dim])) - out[dim]) <= slack * largest
                assert abs(mpmath.mpf(float(found.lse[0, head])) - lse) <= slack


def exact_row(tensors: Tensors, head: int) -> tuple[list[Any], Any, float]:
    """Output and LSE of query row 0 in 50 digits, and the largest value that goes in."""
    n, problem = int(tensors.kv_lens[0]), tensors.case.problem
    q = to_float64(tensors.q[0, head], problem.storage).tolist()
    keys = gather_tokens(tensors, 0, "k", 0, n, head=0).tolist()
    values = gather_tokens(tensors, 0, "v", 0, n, head=0).tolist()
    scale = mpmath.mpf(problem.scale)
    logits = [scale * sum(mpmath.mpf(x) * mpmath.mpf(y) for x, y in zip(q, key, strict=True)) for key in keys]
    weights = [mpmath.exp(s) for s in logits]
    total = sum(weights)
    out = [
        sum(w * mpmath.mpf(row[dim]) for w, row in zip(weights, values, strict=True)) / total
        for dim in range(problem.head_dim)
    ]
    return out, mpmath.log(total), max(abs(number) for row in values for number in row)


def make(*, dtype: str = "float32", causal: bool = True, **change: Any) -> Tensors:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=8, page_size=4, dtype=dtype, causal=causal)
    return build_tensors(
        replace(Case(problem=problem, batch=Batch(kv_lens=(0, 9, 21)), poison="nan"), **change)
    )


def test_reference_lse_identity() -> None:
    # splitting the keys and merging the parts by their LSE gives the whole back
    whole = make(batch=Batch(kv_lens=(21,)), causal=False)
    front = replace(whole, kv_lens=np.array([8], np.int32))
    back = replace(
        whole,
        kv_lens=np.array([13], np.int32),
        layout=replace(whole.layout, block_table=whole.layout.block_table[:, 2:]),
    )
    a, b, c = (truth(tensors, PROFILE) for tensors in (front, back, whole))
    np.testing.assert_allclose(np.logaddexp(a.lse, b.lse), c.lse, rtol=1e-14)
    left, right = np.exp(a.lse - c.lse)[..., None], np.exp(b.lse - c.lse)[..., None]
    np.testing.assert_allclose(left * a.out + right * b.out, c.out, rtol=1e-11, atol=1e-14)


def test_reference_of_two_keys_by_hand() -> None:
    # scores 0 and ln 3, values 0 and 1: weights 1/4 and 3/4
    tensors = make(batch=Batch(kv_lens=(2,)))
    q, storage = np.zeros_like(tensors.q), tensors.pool.storage.copy()
    q[..., 0] = 1.0 / tensors.case.problem.scale
    page = int(tensors.layout.block_table[0, 0])
    storage[:, page, :2] = 0.0
    storage[0, page, 1, :, 0] = np.log(np.float32(3))
    storage[1, page, 1] = 1.0
    found = truth(replace(tensors, q=q, pool=tensors.pool.with_storage(storage)), PROFILE)
    np.testing.assert_allclose(found.out, 0.75, rtol=1e-6)
    np.testing.assert_allclose(found.lse, np.log(4.0), rtol=1e-6)


def test_reference_empty_rows_are_zero_and_minus_infinity() -> None:
    tensors = make(batch=Batch(kv_lens=(0, 3, 21), q_lens=(2, 5, 1)))
    found = truth(tensors, PROFILE)
    assert (found.out[:4] == 0).all()
    assert np.isneginf(found.lse[:4]).all()
    assert (found.out_bound[:4] == 0).all()
    assert np.isfinite(found.lse[4:]).all()
    # the first row that sees a key sees exactly one, so its output is that value row
    np.testing.assert_array_equal(found.out[4, 0], found.out[4, 1])


def test_reference_causal_rows_align_at_the_bottom_right() -> None:
    prefill = make(batch=Batch(kv_lens=(21,), q_lens=(4,)))
    rows = truth(prefill, PROFILE)
    for i in range(4):
        one = replace(
            prefill,
            q=prefill.q[i : i + 1],
            kv_lens=np.array([18 + i], np.int32),
            qo_indptr=np.array([0, 1], np.int32),
        )
        alone = truth(one, PROFILE)
        np.testing.assert_allclose(rows.out[i], alone.out[0], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(rows.out_bound[i], alone.out_bound[0], rtol=1e-9)


def test_reference_keeps_a_nan_from_rows_that_do_not_see_it() -> None:
    tensors = make(batch=Batch(kv_lens=(9,), q_lens=(3,)))
    clean = truth(tensors, PROFILE)
    storage = tensors.pool.storage.copy()
    page = int(tensors.layout.block_table[0, 2])
    storage[1, page, 0] = np.nan  # the last key: only the last row sees it
    found = truth(replace(tensors, pool=tensors.pool.with_storage(storage)), PROFILE)
    np.testing.assert_allclose(found.out[:2], clean.out[:2], rtol=1e-12)
    assert np.isnan(found.out[2]).all()


def test_reference_rejects_arrays_that_do_not_fit() -> None:
    tensors = make()
    with pytest.raises(InvalidCase, match=r"q.shape = \(3, 4, 7\): must be \(3, 4, 8\)"):
        truth(replace(tensors, q=tensors.q[..., :7]), PROFILE)
    with pytest.raises(InvalidCase, match="block_table width"):
        truth(replace(tensors, kv_lens=np.array([0, 9, 100], np.int32)), PROFILE)
    table = np.full_like(tensors.layout.block_table, -7)
    with pytest.raises(InvalidCase, match=r"block_table\[1, 0\] = -7"):
        truth(replace(tensors, layout=replace(tensors.layout, block_table=table)), PROFILE)
    with pytest.raises(InvalidCase, match="qo_indptr"):
        truth(replace(tensors, qo_indptr=np.array([0, 2, 1, 3], np.int32)), PROFILE)


MEMORY_PROBE = """
import resource, numpy as np
from pabench.judge.reference import truth
from pabench.problem import Batch, Case, NumericsProfile, KvPool, PageLayout, Problem, Tensors
from pabench.problem.pool import pool_shape
n = 32768
problem = Problem(num_qo_heads=32, num_kv_heads=8, head_dim=128, page_size=64, dtype="float16")
shape = pool_shape(problem, n // 64, kv_layout="NHD", interleaved=False)
storage = np.full(shape, 0.5, np.float16)
table = np.random.default_rng(0).permutation(n // 64).astype(np.int32)[None]
tensors = Tensors(
    case=Case(problem=problem, batch=Batch(kv_lens=(n,))),
    q=np.ones((1, 32, 128), np.float16),
    pool=KvPool(storage=storage, kv_layout="NHD", interleaved=False),
    layout=PageLayout(page_size=64, num_pages=n // 64, block_table=table),
    kv_lens=np.array([n], np.int32),
    qo_indptr=np.array([0, 1], np.int32),
)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = truth(tensors, NumericsProfile())
assert abs(found.out - 0.5).max() < 1e-12
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_reference_of_a_long_sequence_takes_little_memory() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY_PROBE], capture_output=True, text=True, check=True)
    # keys and values of the whole sequence would be 512 MiB in float64; the blocks do not grow with it
    assert int(done.stdout) < 350 * 1024
