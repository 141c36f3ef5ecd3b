# SPDX-License-Identifier: Apache-2.0
"""Tensor-core prefill over keys and values that lie apart: other widths, other strides, one batch for all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pabench.device.checked import CheckedDevice
from pabench.device.occupancy import SM_LIMITS
from pabench.judge.reference import truth
from pabench.kernels.fitted import architecture_limits
from pabench.kernels.prefill import (
    APART_DIMS,
    APART_FEATURES,
    PREFILL,
    PrefillShape,
    lies_apart,
    prefill_shape,
)
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.dtypes import decode
from pabench.strategies import cases, prefill_batches
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.rawkernel_mla import RawKernelMlaBackend
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from tests.support.absorbed import absorbed
from tests.support.counting import counting_device
from tests.support.kernel_support import bits, judged
from tests.support.prefill_support import FEW, MANY, WIDE, assert_right, planned, run
from tests.support.probe import DEVICE

MORE: dict[str, Any] = {"window": 50, "soft_cap": 20.0, "sinks": (1.0,) * 6, "alibi_slopes": (0.1,) * 6}
BATCH = Batch(kv_lens=(201, 63, 130, 300, 0, 90), q_lens=(200, 63, 9, 70, 3, 0))


def apart(head_dim: int, value_dim: int, **fields: Any) -> Problem:
    given: dict[str, Any] = {"num_qo_heads": 6, "num_kv_heads": 2, "page_size": 5, "dtype": "bfloat16"}
    return Problem(head_dim=head_dim, head_dim_v=value_dim, **given | fields)


@pytest.mark.parametrize(
    ("dims", "fields"),
    [
        ((192, 128), {}),
        ((192, 128), MORE),
        ((192, 128), {"kv_dtype": "e4m3", "v_scale": (2.0, 0.5)}),
        ((128, 256), {"dtype": "float16"}),
        ((16, 80), {"dtype": "float16"}),
        ((80, 16), {"causal": False, "kv_dtype": "e4m3"}),
    ],
)
def test_kernels_prefill_apart_right_in_every_block(dims: tuple[int, int], fields: dict[str, Any]) -> None:
    """And no bit depends on the rows of a block or a warp."""
    problem = apart(*dims, **fields)
    tensors = build_tensors(Case(problem=problem, batch=BATCH, family="ascending", poison="nan"))
    few, many = ((4, 1), (4, 2) if dims[1] <= 128 else (8, 1))
    tile = 64 if max(dims) <= 128 else 32
    results = []
    for warps, tiles in (few, many):
        shape = PrefillShape(warps=warps, tile_tokens=tile, stages=2, row_tiles=tiles)
        results.append(run(planned(tensors, shape=shape)))
        assert_right(tensors, results[-1])
    assert results[0].out.shape == (345, 6, dims[1])
    assert bits(results[0]) == bits(results[1])


@pytest.mark.parametrize("feature", APART_FEATURES)
@settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_kernels_prefill_apart_right_wherever_a_cache_lies_property(
    feature: str, data: st.DataObject
) -> None:
    """Decode steps, drafts and prompts."""
    backend = RawKernelMmaBackend(DEVICE)
    drawn = cases(
        required=[feature],
        features=["window", "sinks", "fp8-kv"],
        dtypes=["bfloat16"],
        head_dims=[16],
        max_head_dim=48,
        max_len=150,
        poisons=["nan"],
        batch=prefill_batches if data.draw(st.booleans()) else None,
        supported=lambda case: backend.capabilities.why_not(case) is None,
    )
    judged(backend, build_tensors(data.draw(drawn)))


def test_kernels_prefill_apart_strides_of_their_own_change_no_bit() -> None:
    """Values as wide as keys, with gaps that keys do not have."""
    problem = replace(apart(64, 64), num_qo_heads=4)
    near = Case(problem=problem, batch=BATCH)
    assert not lies_apart(problem, build_tensors(near).pool)
    expected = bits(run(planned(build_tensors(near), shape=FEW)))
    gaps: tuple[dict[str, Any], ...] = (
        {"row_gaps": (0, 8)},
        {"page_gaps": (16, 0)},
        {"page_gaps": (8, 1000), "starts": (24, 8)},
    )
    for fields in gaps:
        tensors = build_tensors(replace(near, **fields))
        assert lies_apart(problem, tensors.pool)
        for shape in (FEW, MANY, WIDE):
            assert bits(run(planned(tensors, shape=replace(shape, stages=2)))) == expected


def test_kernels_prefill_apart_takes_short_sequences_too() -> None:
    batch = Batch(kv_lens=(70, 40, 9), q_lens=(1, 2, 9))
    backend = RawKernelMmaBackend(DEVICE)
    for gaps, entries in (((0, 8), [PREFILL]), ((8, 8), ["paged_decode", PREFILL])):
        problem = apart(32, 32)
        tensors = build_tensors(Case(problem=problem, batch=batch, row_gaps=gaps, poison="nan"))
        assert [call.launches[1].entry for call in backend.plan(tensors)] == entries
        judged(backend, tensors)


def test_kernels_prefill_apart_touches_nothing_but_its_own() -> None:
    device = CheckedDevice()
    batch = Batch(kv_lens=(0, 1, 64, 200, 65, 3), q_lens=(1, 2, 22, 43, 0, 18))
    for (dims, tail), shape in zip(
        (((48, 32), "minus-one"), ((16, 48), "int-max"), ((32, 16), "int-max")),
        (FEW, MANY, WIDE),
        strict=True,
    ):
        tensors = build_tensors(Case(problem=apart(*dims), batch=batch, poison="nan", tail=tail))
        assert_right(tensors, run(planned(tensors, device, shape=shape)))
    assert device.findings == []


@pytest.mark.parametrize("fields", [{}, {"kv_dtype": "e4m3"}])
@pytest.mark.parametrize("dims", APART_DIMS)
def test_kernels_prefill_apart_counted_against_closed_forms(
    dims: tuple[int, int], fields: dict[str, Any]
) -> None:
    """Bytes of the cache, look-ups and products of one block of rows a KV head; no bank conflict."""
    problem = apart(*dims, num_qo_heads=2, num_kv_heads=1, page_size=1, **fields)
    batch = Batch(kv_lens=(150, 40), q_lens=(30, 20))
    device = counting_device()
    for rows in (64, 128):
        device.counters.clear()
        shape = prefill_shape(dims[0], device.limits, rows=rows, value_dim=dims[1])
        plan = planned(build_tensors(Case(problem=problem, batch=batch)), device, shape=shape)
        for launch in plan.launches:
            plan.module.launch(launch)
        counted = device.counters[PREFILL]
        assert problem.token_bytes == sum(dims) * problem.kv_storage.itemsize
        assert counted.loaded_bytes("k", "v") == 190 * problem.token_bytes
        assert counted.loaded_bytes("block_table") == 4 * 190
        assert counted.loaded_bytes("q") == 50 * 2 * dims[0] * 2
        assert counted.stored_bytes("out") == 50 * 2 * dims[1] * 2
        assert counted.totals().bank_conflicts == 0


@pytest.mark.parametrize("seed", range(2))
def test_kernels_prefill_apart_expanded_and_absorbed_form_agree(seed: int) -> None:
    """DeepSeek's dims: one kernel over the latent cache, the other over 192/128, each within its bound."""
    problem = Problem(
        num_qo_heads=2,
        num_kv_heads=1,
        head_dim=576,
        head_dim_v=512,
        latent=True,
        sm_scale=192**-0.5,
        page_size=16,
        dtype="float16",
    )
    case = Case(problem=problem, batch=Batch(kv_lens=(40, 90), q_lens=(40, 17)), seed=seed)
    short, long, w_v = absorbed(case, nope=128)
    assert (long.case.problem.head_dim, long.case.problem.value_dim) == (192, 128)
    outs, lses, out_bounds, lse_bounds = [], [], [], []
    for backend, tensors in ((RawKernelMlaBackend(DEVICE), short), (RawKernelMmaBackend(DEVICE), long)):
        found, bound = attend(backend, tensors), truth(tensors, backend.profile)
        outs.append(decode(found.out, problem.storage).astype(np.float64))
        lses.append(np.asarray(found.lse, np.float64))
        out_bounds.append(np.asarray(bound.out_bound))
        lse_bounds.append(np.asarray(bound.lse_bound))
    distance = np.abs(np.einsum("hnl,rhl->rhn", w_v, outs[0]) - outs[1])
    assert (distance <= np.einsum("hnl,rhl->rhn", np.abs(w_v), out_bounds[0]) + out_bounds[1]).all()
    assert (np.abs(lses[0] - lses[1]) <= lse_bounds[0] + lse_bounds[1]).all()


@pytest.mark.parametrize("architecture", SM_LIMITS)
def test_kernels_prefill_apart_every_pair_fits_every_device(architecture: str) -> None:
    limits = architecture_limits(SM_LIMITS[architecture])
    for head_dim in range(16, 257, 16):
        for value_dim in range(16, 257, 16):
            shapes = [prefill_shape(head_dim, limits, rows=rows, value_dim=value_dim) for rows in (64, 128)]
            assert {shape.tile_tokens for shape in shapes} == {64 if max(head_dim, value_dim) <= 128 else 32}
            if shapes[1].rows == 128:
                most = 64 if max(head_dim, value_dim) <= 128 else 128
                assert shapes[1].row_tiles == (2 if value_dim <= most else 1)
            if value_dim == head_dim:
                alike = prefill_shape(head_dim, limits, rows=64)
                assert shapes[0].tile_tokens == alike.tile_tokens


def test_kernels_prefill_apart_refuses_what_it_cannot_do() -> None:
    can = RawKernelMmaBackend.capabilities
    good = Case(problem=apart(192, 128), batch=Batch(kv_lens=(3,)))
    assert can.why_not(good) is None
    for value_dim in (24, 272):
        reason = f"head_dim_v {value_dim} is not a multiple of 16 up to 256"
        assert can.why_not(replace(good, problem=apart(192, value_dim))) == reason
    words = "no gaps of {} elements: copies take 16 bytes at a time"
    gaps: tuple[tuple[dict[str, Any], int], ...] = (
        ({"page_gaps": (0, 1)}, 1),
        ({"row_gaps": (4, 8)}, 4),
        ({"starts": (8, 3)}, 3),
    )
    for fields, number in gaps:
        assert can.why_not(replace(good, **fields)) == words.format(number)
    small = replace(good, problem=apart(32, 16, kv_dtype="e4m3"), row_gaps=(8, 0))
    assert can.why_not(small) == words.format(8)
