# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pabench.errors import InvalidCase
from pabench.judge.verdict import judge
from pabench.kernels.decode_simple import plan_decode
from pabench.problem import Batch, Case, KvPool, Problem, build_tensors
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from tests.support.kernel_support import shifted
from tests.support.probe import DEVICE

SHAPES = {
    "head_dim 5, page 1, MHA": Problem(num_qo_heads=3, num_kv_heads=3, head_dim=5, page_size=1),
    "head_dim 5, page 1000, group 8": Problem(num_qo_heads=8, num_kv_heads=1, head_dim=5, page_size=1000),
    "head_dim 80, page 16, group 3": Problem(
        num_qo_heads=6, num_kv_heads=2, head_dim=80, page_size=16, dtype="bfloat16"
    ),
    "head_dim 256, page 7, group 5": Problem(
        num_qo_heads=5, num_kv_heads=1, head_dim=256, page_size=7, dtype="float16"
    ),
}
LENGTHS = (0, 1, 31, 32, 33, 100, 700)


@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_decode_right_for_every_number_of_splits(shape: str) -> None:
    case = Case(problem=SHAPES[shape], batch=Batch(kv_lens=LENGTHS), poison="nan", family="all-negative")
    tensors = build_tensors(case)
    for num_splits in range(1, 9):
        backend = RawKernelBackend(DEVICE, num_splits=num_splits)
        result = attend(backend, tensors)
        verdict = judge(tensors, result.out, result.lse, backend.profile)
        assert verdict.passed, f"{num_splits} splits: {verdict.text}"
        assert not result.out[0].any()
        assert result.lse is not None
        assert (result.lse[0] == -np.inf).all()


@pytest.mark.parametrize("group", range(1, 9))
def test_kernels_decode_right_for_every_group_size(group: int) -> None:
    problem = Problem(num_qo_heads=2 * group, num_kv_heads=2, head_dim=5, page_size=4)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(9, 70)), family="spotlight"))
    backend = RawKernelBackend(DEVICE)
    result = attend(backend, tensors)
    verdict = judge(tensors, result.out, result.lse, backend.profile)
    assert verdict.passed, verdict.text


@pytest.mark.slow
def test_kernels_decode_more_blocks_than_65535() -> None:
    """One key a sequence: the output is its value, the LSE its logit."""
    num_seqs, heads = 16_400, 16
    problem = Problem(num_qo_heads=heads, num_kv_heads=1, head_dim=1, page_size=1, sm_scale=0.5)
    rng = np.random.default_rng(3)
    q = rng.normal(size=(num_seqs, heads, 1)).astype(np.float32)
    storage = rng.normal(size=(2, num_seqs, 1, 1, 1)).astype(np.float32)
    pages = rng.permutation(num_seqs).astype(np.int32)
    plan = plan_decode(
        DEVICE,
        problem,
        q=q,
        pool=KvPool(storage=storage, kv_layout="NHD", interleaved=False),
        block_table=pages[:, None],
        kv_lens=np.ones(num_seqs, np.int32),
        num_splits=1,
    )
    assert plan.launches[0].grid[0] > 65535
    for launch in plan.launches:
        plan.module.launch(launch)
    np.testing.assert_array_equal(plan.out[:, :, 0], np.tile(storage[1, pages, 0, 0], (1, heads)))
    logits = 0.5 * q[:, :, 0] * storage[0, pages, 0, 0]
    np.testing.assert_allclose(plan.lse, logits, atol=5e-7)


def test_kernels_decode_arrays_at_odd_addresses() -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=80, page_size=4, dtype="bfloat16")
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(50, 7)), poison="nan"))

    pool = tensors.pool.with_storage(shifted(tensors.pool.storage))
    backend = RawKernelBackend(DEVICE)
    odd = attend(backend, replace(tensors, pool=pool, q=shifted(tensors.q)))
    verdict = judge(tensors, odd.out, odd.lse, backend.profile)
    assert verdict.passed, verdict.text


@pytest.mark.parametrize("num_splits", [1, 3])
def test_kernels_decode_shows_a_nan_among_the_keys(num_splits: int) -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=2, head_dim=5, page_size=4)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(40, 40)), placement="identity"))
    tensors.pool.k[2, 1, 1, 3] = np.nan  # sequence 0, token 9, KV head 1
    backend = RawKernelBackend(DEVICE, num_splits=num_splits)
    result = attend(backend, tensors)
    assert np.isnan(result.out).all(axis=2).tolist() == [[False, True], [False, False]]
    assert result.lse is not None
    assert np.isnan(result.lse).tolist() == [[False, True], [False, False]]
    assert judge(tensors, result.out, result.lse, backend.profile).passed


@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("silent", [range(32), range(32, 64), range(1, 70)])
def test_kernels_decode_leaves_out_keys_of_logit_minus_infinity(num_splits: int, silent: range) -> None:
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=5, page_size=1)
    case = Case(problem=problem, batch=Batch(kv_lens=(70,)), placement="identity")
    tensors = build_tensors(case)
    tensors.q[...] = np.abs(tensors.q) + 0.1
    heard = [token for token in range(70) if token not in silent]
    logits = tensors.pool.k[heard, 0, 0].astype(np.float64) @ tensors.q[0, 0] * problem.scale
    weights = np.exp(logits - logits.max())
    expected = weights @ tensors.pool.v[heard, 0, 0] / weights.sum()
    tensors.pool.k[list(silent)] = -np.inf
    result = attend(RawKernelBackend(DEVICE, num_splits=num_splits), tensors)
    np.testing.assert_allclose(result.out[0, 0], expected, rtol=1e-5, atol=1e-6)
    assert result.lse is not None
    np.testing.assert_allclose(result.lse[0, 0], math.log(weights.sum()) + logits.max(), rtol=1e-5)
    tensors.pool.k[:] = -np.inf
    nothing = attend(RawKernelBackend(DEVICE, num_splits=num_splits), tensors)
    assert np.isnan(nothing.out).all()
    assert nothing.lse is not None
    assert (nothing.lse == -np.inf).all()


@pytest.mark.parametrize("num_splits", [0, -1, 1.5, True])
def test_kernels_decode_refuses_a_wrong_number_of_splits(num_splits: int) -> None:
    with pytest.raises(InvalidCase, match="num_splits = "):
        RawKernelBackend(DEVICE, num_splits=num_splits)
