# SPDX-License-Identifier: Apache-2.0
"""The tensor-core decode kernel over e4m3: queries of bfloat16 that become float16, or cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.kernels.features import E4M3_CACHE, PLAIN_E4M3, variant_of
from pabench.problem import Batch, Case, Problem, Tensors, build_tensors
from pabench.problem.dtypes import BFLOAT16, Array, decode, encode
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from tests.support.kernel_support import bits, judged
from tests.support.probe import DEVICE, probe

HEAD_DIM = 32
PROBLEM = Problem(
    num_qo_heads=6,
    num_kv_heads=2,
    head_dim=HEAD_DIM,
    page_size=5,
    dtype="bfloat16",
    kv_dtype="e4m3",
    k_scale=(0.5, 3.0),
    v_scale=(1.5,),
)
LENGTHS, QUERIES = (0, 1, 63, 64, 65, 130, 200, 3), (1, 1, 2, 8, 1, 5, 1, 8)
TENSORS = build_tensors(Case(problem=PROBLEM, batch=Batch(kv_lens=LENGTHS, q_lens=QUERIES), poison="nan"))


def bfloat16(numbers: Array) -> Array:
    """The bits of numbers that are bfloat16."""
    found = encode(np.asarray(numbers, np.float32), BFLOAT16)
    np.testing.assert_array_equal(decode(found, BFLOAT16), numbers)
    return found


def halves(rows: Array) -> tuple[bool, Array, Array]:
    """Whether ``(16, 32)`` bfloat16 fit, the same as float16, and the ``(16,)`` powers beside it."""
    out, inverse = np.zeros((16, HEAD_DIM), np.float16), np.zeros(16, np.float32)
    fits = np.full(1, 7, np.int32)
    probe("halves", "query_halves", np.ascontiguousarray(rows), out, inverse, fits)
    return bool(fits[0]), out, inverse


def with_queries(change: Callable[[Array], None]) -> Tensors:
    """Tensors whose queries ``(num_query_tokens, num_qo_heads, head_dim)`` are changed as float32."""
    queries = decode(TENSORS.q, BFLOAT16).astype(np.float32)
    change(queries)
    return replace(TENSORS, q=encode(queries, BFLOAT16))


# --- what a row becomes -------------------------------------------------------------------------------------


def test_kernels_decode_mma_e4m3_rows_that_fit_lose_no_bit() -> None:
    rng = np.random.default_rng(5)
    largest = np.ldexp(1.9921875, rng.integers(-60, 60, (16, 1)))
    others = np.ldexp(rng.integers(128, 256, (16, HEAD_DIM - 1)), rng.integers(-39, -7, (16, HEAD_DIM - 1)))
    signs = rng.choice([-1.0, 1.0], (16, HEAD_DIM))
    # with a last bit 2^-39 below the power of the largest, which is the last one that float16 has there
    power = np.ldexp(1.0, np.frexp(largest)[1] - 1)
    rows = signs * np.concatenate((largest, others * power), axis=1)
    rows[3] = 0.0
    rows[4, 5:] = 0.0
    fits, found, inverse = halves(bfloat16(rows))
    assert fits
    np.testing.assert_array_equal(found.astype(np.float64) * inverse[:, None], rows)
    assert np.isfinite(found).all()
    top = np.abs(found.astype(np.float64)).max(axis=1)
    assert (top[[0, 1, 2, *range(4, 16)]] >= 2.0**15).all()


FAR: dict[str, float] = {
    "a bit too low": 2.0**-40 * 129 / 128,
    "too small": 2.0**-100,
    "infinite": np.inf,
    "no number": np.nan,
    "too large for its scale": 2.0**61,
}


@pytest.mark.parametrize("number", FAR.values(), ids=FAR)
@pytest.mark.parametrize("row", [0, 7, 8, 15])
def test_kernels_decode_mma_e4m3_one_row_that_does_not_fit_is_seen_by_all_lanes(
    row: int, number: float
) -> None:
    rows = np.ones((16, HEAD_DIM), np.float32)
    assert halves(bfloat16(rows))[0]
    for column in (0, 13, HEAD_DIM - 1):
        changed = rows.copy()
        changed[row, column] = number
        assert not halves(encode(changed, BFLOAT16))[0]


def test_kernels_decode_mma_e4m3_rows_far_from_one_do_not_fit() -> None:
    for exponent in (-60, 60):
        assert halves(bfloat16(np.full((16, HEAD_DIM), 2.0**exponent)))[0]
    for exponent in (-126, -61, 61, 127):
        assert not halves(bfloat16(np.full((16, HEAD_DIM), 2.0**exponent)))[0]


@settings(max_examples=60, deadline=None, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    exponents=st.tuples(st.integers(-140, 127), st.integers(0, 60)),
    live=st.floats(0, 1),
)
def test_kernels_decode_mma_e4m3_rows_either_lose_no_bit_or_do_not_fit_property(
    seed: int, exponents: tuple[int, int], live: float
) -> None:
    rng, (top, span) = np.random.default_rng(seed), exponents
    numbers = np.ldexp(rng.normal(size=(16, HEAD_DIM)), rng.integers(top - span, top + 1, (16, HEAD_DIM)))
    numbers[rng.random(numbers.shape) > live] = 0.0
    rows = encode(np.clip(numbers, -3e38, 3e38).astype(np.float32), BFLOAT16)
    fits, found, inverse = halves(rows)
    if fits:
        stored = decode(rows, BFLOAT16).astype(np.float64)
        np.testing.assert_array_equal(found.astype(np.float64) * inverse[:, None], stored)


# --- attention ----------------------------------------------------------------------------------------------


def test_kernels_decode_mma_e4m3_has_an_instance_without_features() -> None:
    assert variant_of(PROBLEM) == PLAIN_E4M3
    assert variant_of(replace(PROBLEM, causal=False)) == PLAIN_E4M3
    for more in ({"soft_cap": 3.0}, {"window": 4}, {"alibi_slopes": (1.0,) * 6}, {"sinks": (0.0,) * 6}):
        assert variant_of(replace(PROBLEM, **more)) == E4M3_CACHE


@pytest.mark.parametrize("split_tokens", [0, 64])
def test_kernels_decode_mma_e4m3_no_bit_of_a_row_depends_on_the_way_of_its_products(
    split_tokens: int,
) -> None:
    """A row that does not fit sends the other rows of its unit the other way too."""
    backend = RawKernelMmaBackend(DEVICE, split_tokens=split_tokens, blocks=3)
    plain = judged(backend, TENSORS)

    def unfit(queries: Array) -> None:
        queries[:, ::3, 4] = 2.0**-70

    other = judged(backend, with_queries(unfit))
    rest = [1, 2, 4, 5]
    np.testing.assert_array_equal(other.out[:, rest], plain.out[:, rest])
    assert plain.lse is not None
    assert other.lse is not None
    np.testing.assert_array_equal(other.lse[:, rest], plain.lse[:, rest])


@pytest.mark.parametrize("power", [-110, -61, -30, 17, 30, 61, 100])
def test_kernels_decode_mma_e4m3_right_for_queries_beyond_float16(power: int) -> None:
    """With scales that bring the logits back, as far as scales go."""

    def scaled(queries: Array) -> None:
        queries *= 2.0**power

    tensors = with_queries(scaled)
    by_softmax, by_keys = max(-17, min(18, -power)), max(-17, min(18, -power // 2))
    problem = replace(PROBLEM, sm_scale=PROBLEM.scale * 2.0**by_softmax, k_scale=(2.0**by_keys, 1.0))
    judged(RawKernelMmaBackend(DEVICE), replace(tensors, case=replace(tensors.case, problem=problem)))


def test_kernels_decode_mma_e4m3_right_where_small_elements_alone_count() -> None:
    """The largest elements of the query meet keys of 0: what float16 would have lost is the whole logit."""

    def wide(queries: Array) -> None:
        queries *= 2.0**-12
        queries[..., 0] = 2.0**30

    tensors = with_queries(wide)
    pool = tensors.pool.with_storage(tensors.pool.storage.copy())
    pool.k[..., 0] = 0
    case = replace(tensors.case, problem=replace(PROBLEM, sm_scale=2.0**12))
    judged(RawKernelMmaBackend(DEVICE), replace(tensors, pool=pool, case=case))


def test_kernels_decode_mma_e4m3_shows_what_is_not_finite_in_a_query() -> None:
    def broken(queries: Array) -> None:
        queries[3, 1, 7] = np.nan
        queries[9, 2, 0] = np.inf

    tensors = with_queries(broken)
    result = judged(RawKernelMmaBackend(DEVICE), tensors)
    assert np.isnan(decode(result.out[3, 1], BFLOAT16)).all()


def test_kernels_decode_mma_e4m3_features_that_change_nothing_change_no_bit() -> None:
    backend = RawKernelMmaBackend(DEVICE, blocks=5)
    plain = bits(judged(backend, TENSORS))
    for idle in ({"window": 2**31 - 1}, {"alibi_slopes": (0.0,) * 6}):
        problem = replace(PROBLEM, **idle)
        other = replace(TENSORS, case=replace(TENSORS.case, problem=problem))
        assert bits(judged(backend, other)) == plain
