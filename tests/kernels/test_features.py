# SPDX-License-Identifier: Apache-2.0
"""The readable kernel beyond plain decode: right at every edge, and bit for bit plain where it may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pabench.device.emulated import EmulatedDevice
from pabench.judge.reference import truth
from pabench.kernels.decode_simple import plan_decode, split_count
from pabench.problem import Batch, Case, Problem, Tensors, build_tensors
from pabench.problem.dtypes import E4M3, Array, decode, encode
from pabench.selftest.calibration import KINDS, random_case
from pabench.subjects.backends.base import AttentionOutput
from pabench.subjects.backends.rawkernel import TANH_ERROR, RawKernelBackend
from tests.support.kernel_support import bits, judged
from tests.support.probe import DEVICE, probe

PLAIN = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=5)
LENGTHS = (0, 1, 31, 33, 64, 130)


def run(tensors: Tensors, *, num_splits: int | None = None) -> AttentionOutput:
    """Attend and judge."""
    return judged(RawKernelBackend(DEVICE, num_splits=num_splits), tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_features_are_right(kind: str) -> None:
    for number in range(12):
        case = random_case(kind, np.random.default_rng([KINDS.index(kind), number, 2]))
        dtype = "float32" if number % 2 else "bfloat16"
        # the values of a latent cache lie in its keys
        head_dim = case.problem.head_dim if case.problem.latent else 16
        problem = replace(case.problem, dtype=dtype, head_dim=head_dim)
        run(build_tensors(replace(case, problem=problem)), num_splits=(None, 3)[number // 2 % 2])


@pytest.mark.parametrize("num_splits", [1, 2, 5])
@pytest.mark.parametrize("window", [1, 2, 31, 32, 33, 64, 65, 129, 130, 131])
def test_kernels_features_windows_of_any_length(window: int, num_splits: int) -> None:
    case = Case(problem=replace(PLAIN, window=window), batch=Batch(kv_lens=LENGTHS), poison="nan")
    for family in ("window-edge", "marker"):
        run(build_tensors(replace(case, family=family)), num_splits=num_splits)


@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize(
    "idle",
    [
        {"window": 130},
        {"window": 2**31 - 1},
        {"alibi_slopes": (0.0,) * 4},
        {"sinks": (-1e4,) * 4},
        {"causal": False, "window": 500},
    ],
)
def test_kernels_features_that_change_nothing_change_no_bit(idle: dict[str, Any], num_splits: int) -> None:
    # empty sequences aside, whose LSE is the sink
    case = Case(problem=PLAIN, batch=Batch(kv_lens=LENGTHS[1:]), poison="nan", family="ascending")
    tensors = build_tensors(case)
    plain = run(tensors, num_splits=num_splits)
    other = replace(tensors, case=replace(case, problem=replace(PLAIN, **idle)))
    assert bits(run(other, num_splits=num_splits)) == bits(plain)


def test_kernels_features_one_row_a_sequence_is_decode_bit_for_bit() -> None:
    tensors = build_tensors(Case(problem=PLAIN, batch=Batch(kv_lens=LENGTHS)))
    plain = run(tensors)
    plan = plan_decode(
        DEVICE,
        PLAIN,
        q=tensors.q,
        pool=tensors.pool,
        block_table=tensors.layout.block_table,
        kv_lens=tensors.kv_lens,
        num_splits=1,
        qo_indptr=np.arange(len(LENGTHS) + 1, dtype=np.int32),
    )
    for launch in plan.launches:
        plan.module.launch(launch)
    assert bits(AttentionOutput(out=plan.out, lse=plan.lse)) == bits(plain)


def test_kernels_features_prefill_rows_are_decode_rows_of_shorter_sequences() -> None:
    case = Case(problem=PLAIN, batch=Batch(kv_lens=(70,), q_lens=(6,)), poison="nan")
    tensors = build_tensors(case)
    rows = run(tensors, num_splits=1)
    for i in range(6):
        batch = Batch(kv_lens=(65 + i,))
        alone = replace(
            tensors,
            case=replace(case, batch=batch),
            q=tensors.q[i : i + 1],
            kv_lens=np.array([65 + i], np.int32),
            qo_indptr=batch.qo_indptr,
        )
        decoded = run(alone, num_splits=1)
        np.testing.assert_array_equal(decoded.out[0], rows.out[i])
        assert decoded.lse is not None
        assert rows.lse is not None
        np.testing.assert_array_equal(decoded.lse[0], rows.lse[i])


def test_kernels_features_scales_that_are_powers_of_two_change_no_bit() -> None:
    problem = replace(PLAIN, kv_dtype="e4m3", sm_scale=0.25)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(70,))))
    plain = run(tensors)
    scaled = replace(problem, sm_scale=0.5, k_scale=(0.5,), v_scale=(4.0, 1.0))
    other = run(replace(tensors, case=replace(tensors.case, problem=scaled)))
    assert plain.lse is not None
    assert other.lse is not None
    np.testing.assert_array_equal(other.lse, plain.lse)
    np.testing.assert_array_equal(other.out, plain.out * np.array([4, 4, 1, 1], np.float32)[:, None])


@pytest.mark.parametrize(
    "batch", [Batch(kv_lens=(3, 9), q_lens=(0, 0)), Batch(kv_lens=(0, 4), q_lens=(3, 0))]
)
def test_kernels_features_batches_without_anything_to_do(batch: Batch) -> None:
    result = run(build_tensors(Case(problem=PLAIN, batch=batch)))
    assert result.out.shape == (batch.num_query_tokens, 4, 16)
    assert not result.out.any()


def test_kernels_features_tanh_is_as_good_as_declared() -> None:
    """A cap far above the logits: what the LSE loses is the error of tanh times the cap."""
    cap = 2.0**12
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=1, page_size=1, sm_scale=1.0, soft_cap=cap)
    logits = np.linspace(-5 * cap, 5 * cap, 301).astype(np.float32)
    tensors = build_tensors(
        Case(problem=problem, batch=Batch(kv_lens=(1,) * logits.size), placement="identity")
    )
    tensors.q[:] = 1.0
    tensors.pool.k[:, 0, 0, 0] = logits
    result = run(tensors)
    assert result.lse is not None
    error = np.abs(result.lse - truth(tensors, RawKernelBackend.profile).lse) / cap
    assert 0.1 * TANH_ERROR < error.max() < TANH_ERROR


def test_kernels_features_split_for_what_a_window_leaves() -> None:
    assert split_count((5000, 10), 2) == 10
    assert split_count((5000, 10), 2, num_query_tokens=2000) == 1
    problem = replace(PLAIN, window=40)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(3000,))))
    assert len(RawKernelBackend(DEVICE).plan(tensors).launches) == 1


def test_kernels_features_need_no_page_outside_the_window() -> None:
    """Table entries of pages that slid out are not looked up."""
    case = Case(problem=replace(PLAIN, window=7), batch=Batch(kv_lens=(64,)))
    tensors = build_tensors(case)
    plan = RawKernelBackend(DEVICE).plan(tensors)
    right = run(tensors)
    table = tensors.layout.block_table.copy()
    table[0, : (64 - 7) // 5] = 2**30
    again = plan_decode(
        DEVICE,
        case.problem,
        q=tensors.q,
        pool=tensors.pool,
        block_table=table,
        kv_lens=tensors.kv_lens,
        num_splits=1,
    )
    again.module.launch(again.launches[0])
    np.testing.assert_array_equal(again.out, right.out)
    assert plan.out.shape == again.out.shape


# --- conversions --------------------------------------------------------------------------------------------


def narrow(values: Array, device: EmulatedDevice = DEVICE) -> Array:
    found = np.zeros(values.size, np.uint8)
    size, grid = np.uint32(values.size), (-(-values.size // 256), 1, 1)
    probe("numbers", "narrow_e4m3", values, found, size, grid=grid, block=(256, 1, 1), device=device)
    return found


def test_kernels_features_widen_e4m3_bits() -> None:
    every = np.arange(256, dtype=np.uint8)
    found = np.zeros(256, np.float32)
    probe("numbers", "widen_e4m3", every, found, np.uint32(256), grid=(1, 1, 1), block=(256, 1, 1))
    np.testing.assert_array_equal(found, decode(every, E4M3))
    assert np.signbit(found[0x80])


def test_kernels_features_widen_two_e4m3_at_once() -> None:
    every = np.arange(2**16, dtype=np.uint16)
    found = np.zeros(every.size, np.uint32)
    grid = (every.size // 256, 1, 1)
    probe("numbers", "widen_e4m3x2", every, found, np.uint32(every.size), grid=grid, block=(256, 1, 1))
    expected = decode(every.view(np.uint8), E4M3)
    pairs = found.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(pairs, expected)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(pairs[number]), np.signbit(expected[number]))


@pytest.mark.parametrize(
    ("selector", "expected"), [(0x3210, "00112233"), (0x3120, "00221133"), (0x0003, "33000000")]
)
def test_kernels_features_permute_bytes(selector: int, expected: str) -> None:
    """Written lowest byte first."""
    found = np.zeros(32, np.uint32)
    word = np.frombuffer(bytes.fromhex("00112233") * 32, np.uint32)
    probe("numbers", "permute_bytes", word, found, np.uint32(selector))
    assert found.tobytes().hex() == expected * 32


def test_kernels_features_narrow_to_e4m3_like_the_judge() -> None:
    grid = decode(np.arange(127, dtype=np.uint8), E4M3)
    near = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2, [464, 480, 1e30, np.inf, 1e-40]]).astype(
        np.float32
    )
    with np.errstate(over="ignore"):
        up, down = (np.nextafter(near, np.float32(end)) for end in (np.inf, 0))
    near = np.concatenate([near, up, down])
    noise = np.random.default_rng(0).integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([near, -near, noise]).astype(np.float32)
    got, expected = narrow(values), encode(values, E4M3)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(got[number], expected[number])
    assert (got[~number] & 0x7F == 0x7F).all()
    assert (~number).sum() > 100
