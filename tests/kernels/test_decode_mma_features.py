# SPDX-License-Identifier: Apache-2.0
"""The tensor-core decode kernel beyond plain attention: every feature, wherever the work is cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pabench.device.checked import CheckedDevice
from pabench.judge.reference import truth
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, Problem, Tensors, build_tensors
from pabench.problem.dtypes import decode
from pabench.problem.problem import FEATURES
from pabench.selftest.calibration import random_case
from pabench.strategies import batches, cases, speculative_batches
from pabench.subjects.backends.base import AttentionOutput, attend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from tests.support.kernel_support import bits, judged
from tests.support.probe import DEVICE

PLAIN = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=16, page_size=5, dtype="bfloat16")
LENGTHS = (0, 1, 63, 64, 65, 130, 200, 3)
QUERIES = (1, 1, 2, 8, 1, 5, 1, 8)
CUTS: tuple[dict[str, int], ...] = ({"blocks": 1}, {"blocks": 23}, {"split_tokens": 64})
ALL: dict[str, Any] = {
    "soft_cap": 20.0,
    "alibi_slopes": (0.5, 0.0, -0.25, 0.01, 1.0, 0.125),
    "sinks": (0.3, -40.0, 5.0, 40.0, -1e4, 1.0),
}
SCALES: dict[str, Any] = {"kv_dtype": "e4m3", "k_scale": (0.5, 3.0), "v_scale": (1.5,)}


def run(tensors: Tensors, device: Any = DEVICE, **cut: int) -> AttentionOutput:
    """Attend and judge."""
    return judged(RawKernelMmaBackend(device, **cut), tensors)


@pytest.mark.parametrize("feature", FEATURES)
def test_kernels_decode_mma_features_agree_with_the_simple_kernel_property(feature: str) -> None:
    """Two right kernels differ by no more than both bounds together."""
    drawn = cases(
        dtypes=["bfloat16"],
        head_dims=[16],
        batch=lambda size: st.one_of(speculative_batches(size), batches(size, max_seqs=4, max_len=300)),
        required=[feature],
        features=FEATURES,
    )

    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=drawn, blocks=st.integers(1, 12))
    def agree(case: Case, blocks: int) -> None:
        tensors = build_tensors(case)
        backends = RawKernelBackend(DEVICE), RawKernelMmaBackend(DEVICE, blocks=blocks)
        results = [attend(backend, tensors) for backend in backends]
        truths = [truth(tensors, backend.profile) for backend in backends]
        outs = [decode(result.out, case.problem.storage).astype(np.float64) for result in results]
        assert (np.abs(outs[0] - outs[1]) <= np.add(*(np.asarray(one.out_bound) for one in truths))).all()
        lses = [np.asarray(result.lse, np.float64) for result in results]
        finite = np.isfinite(lses[0])
        assert (finite == np.isfinite(lses[1])).all()
        allowed = np.add(*(np.asarray(one.lse_bound) for one in truths))
        assert (np.abs(lses[0][finite] - lses[1][finite]) <= allowed[finite]).all()

    agree()


@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 63, 64, 65, 129, 2**31 - 1])
def test_kernels_decode_mma_features_windows_of_any_length(window: int) -> None:
    for causal in (True, False):
        problem = replace(PLAIN, window=window, causal=causal)
        case = Case(problem=problem, batch=Batch(kv_lens=LENGTHS, q_lens=QUERIES), poison="nan")
        for family in ("window-edge", "marker"):
            tensors = build_tensors(replace(case, family=family))
            for cut in CUTS:
                run(tensors, **cut)


@pytest.mark.parametrize("kv_dtype", [None, "e4m3"])
def test_kernels_decode_mma_features_together_wherever_the_work_is_cut(kv_dtype: str | None) -> None:
    """A sink counts once, in however many pieces its keys are."""
    problem = replace(PLAIN, window=100, **ALL, **(SCALES if kv_dtype else {}))
    for layout in ("NHD", "HND"):
        case = Case(
            problem=problem,
            batch=Batch(kv_lens=LENGTHS, q_lens=QUERIES),
            poison="nan",
            kv_layout=layout,
            interleaved=layout == "HND",
        )
        tensors = build_tensors(case)
        for cut in CUTS:
            run(tensors, **cut)


def test_kernels_decode_mma_features_at_random() -> None:
    for number in range(24):
        case = random_case("all", np.random.default_rng([number, 7]))
        problem = replace(case.problem, head_dim=16, dtype="bfloat16")
        run(build_tensors(replace(case, problem=problem)), blocks=number % 7 + 1)


@pytest.mark.parametrize("head_dim", [48, 80, 144, 256])
def test_kernels_decode_mma_features_e4m3_of_any_head_dim(head_dim: int) -> None:
    """Odd numbers of chunks, output in unequal passes, queries that do not fit the registers."""
    dtype = ("bfloat16", "float16")[head_dim // 16 % 2]
    problem = replace(PLAIN, head_dim=head_dim, dtype=dtype, **SCALES)
    batch = Batch(kv_lens=LENGTHS, q_lens=QUERIES)
    tensors = build_tensors(Case(problem=problem, batch=batch, poison="nan", family="ascending"))
    for cut in CUTS:
        run(tensors, **cut)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("idle", [{"window": 2**31 - 1}, {"window": 210}, {"alibi_slopes": (0.0,) * 6}])
def test_kernels_decode_mma_features_that_change_nothing_change_no_bit(
    idle: dict[str, Any], cut: dict[str, int]
) -> None:
    case = Case(problem=PLAIN, batch=Batch(kv_lens=LENGTHS, q_lens=QUERIES), poison="nan", family="ascending")
    tensors = build_tensors(case)
    other = replace(tensors, case=replace(case, problem=replace(PLAIN, **idle)))
    assert bits(run(other, **cut)) == bits(run(tensors, **cut))


def test_kernels_decode_mma_features_scales_that_are_powers_of_two_change_no_bit() -> None:
    problem = replace(PLAIN, kv_dtype="e4m3", sm_scale=0.25)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(170,))))
    plain = run(tensors)
    scaled = replace(problem, sm_scale=0.5, k_scale=(0.5,), v_scale=(4.0, 1.0))
    other = run(replace(tensors, case=replace(tensors.case, problem=scaled)))
    assert plain.lse is not None
    assert other.lse is not None
    np.testing.assert_array_equal(other.lse, plain.lse)
    factors = np.array([4, 4, 4, 1, 1, 1], np.float32)[:, None]
    np.testing.assert_array_equal(
        decode(other.out, problem.storage), decode(plain.out, problem.storage) * factors
    )


def test_kernels_decode_mma_features_need_no_page_outside_the_window() -> None:
    """Table entries of pages that slid out are not looked up, not even one token before the window."""
    case = Case(problem=replace(PLAIN, window=7, page_size=1), batch=Batch(kv_lens=(64, 200), q_lens=(1, 3)))
    tensors = build_tensors(case)
    right = run(tensors)
    table = tensors.layout.block_table.copy()
    table[0, : 64 - 7] = table[1, : 198 - 7] = -(2**31)
    slid = replace(tensors, layout=replace(tensors.layout, block_table=table))
    backend = RawKernelMmaBackend(DEVICE)
    (plan,) = backend.plan(tensors)
    decode_args = list(plan.launches[1].args)
    assert decode_args[3] is tensors.layout.block_table
    decode_args[3] = slid.layout.block_table
    for launch in (plan.launches[0], replace(plan.launches[1], args=tuple(decode_args))):
        plan.module.launch(launch)
    assert bits(backend.fetch((plan,))) == bits(right)


@pytest.mark.parametrize("kv_dtype", [None, "e4m3"])
def test_kernels_decode_mma_features_show_a_nan_among_the_keys(kv_dtype: str | None) -> None:
    problem = replace(PLAIN, num_qo_heads=4, page_size=4, sinks=(1.0,) * 4, kv_dtype=kv_dtype)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(140, 140)), placement="identity"))
    nan = 0xFF if kv_dtype else 0x7FC0
    tensors.pool.k[20, 1, 1, 3] = nan  # sequence 0, token 81, KV head 1
    for cut in CUTS:
        result = attend(RawKernelMmaBackend(DEVICE, **cut), tensors)
        out = decode(result.out, problem.storage)
        assert np.isnan(out).all(axis=2).tolist() == [[False, False, True, True], [False] * 4]
        assert judge(tensors, result.out, result.lse, RawKernelMmaBackend.profile).passed


def test_kernels_decode_mma_features_touch_nothing_but_their_own() -> None:
    """Every access looked at: bounds, alignment, and bytes that nobody wrote."""
    device = CheckedDevice(checks=["memory", "init"])
    batch = Batch(kv_lens=(0, 1, 64, 200, 65, 3), q_lens=(1, 2, 8, 7, 0, 8))
    problem = replace(PLAIN, head_dim=48, window=50, **ALL, **SCALES)
    for tail in ("minus-one", "int-max"):
        tensors = build_tensors(Case(problem=problem, batch=batch, poison="nan", tail=tail))
        for cut in CUTS:
            run(tensors, device, **cut)
