# SPDX-License-Identifier: Apache-2.0
"""Prompts by products of warpgroups, from PTX for sm_90a: right, bits a row's own, refused elsewhere."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pabench.device.base import DeviceLimits
from pabench.device.occupancy import SM_LIMITS
from pabench.device.registry import open_device
from pabench.device.tensor_map import NO_MAP
from pabench.errors import DeviceFault, InvalidCase, Unsupported
from pabench.judge.verdict import judge
from pabench.kernels.fitted import architecture_limits
from pabench.kernels.instance import HEAD_DIMS
from pabench.kernels.layers import with_maps
from pabench.kernels.prefill_wgmma import (
    ROWS,
    WgmmaShape,
    box_tokens,
    instances,
    plan_prefill_wgmma,
    tensor_maps,
    wgmma_shape,
)
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.dtypes import decode
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, attend
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from pabench.subjects.backends.rawkernel_wgmma import RawKernelWgmmaBackend
from pabench.subjects.registry import load_backend
from tests.device.ptx.test_device import needs_nvrtc
from tests.kernels.test_prefill import part
from tests.support.kernel_support import bits
from tests.support.prefill_support import run, uploaded

HOPPER = "ptx:sm_90a"
PROFILE = RawKernelWgmmaBackend.profile
LIMITS = architecture_limits(SM_LIMITS["sm_90a"])
PLAIN = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=5, dtype="bfloat16")


@functools.cache
def hopper(*, checked: bool = False) -> Any:
    return open_device(HOPPER, checked=checked, seed=3)


def planned(tensors: Tensors, device: Any = None, **options: Any) -> Any:
    device = device or hopper()
    return plan_prefill_wgmma(device, tensors.case.problem, **uploaded(tensors, device), **options)


def assert_right(tensors: Tensors, result: AttentionOutput) -> None:
    verdict = judge(tensors, result.out, result.lse, PROFILE)
    assert verdict.passed, verdict.text


def right(problem: Problem, batch: Batch, device: Any = None, **case: Any) -> AttentionOutput:
    tensors = build_tensors(Case(problem=problem, batch=batch, **{"poison": "nan", **case}))
    result = run(planned(tensors, device))
    assert_right(tensors, result)
    return result


# --- right --------------------------------------------------------------------------------------------------

RAGGED = Batch(kv_lens=(0, 1, 127, 128, 129, 300, 5, 0), q_lens=(2, 1, 63, 128, 30, 140, 9, 5))


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("page_size", [1, 8, 16, 64, 1000])
def test_wgmma_prefill_right_for_any_page_and_ragged_lengths(page_size: int, causal: bool) -> None:
    """NaN lies behind the ends of sequences, in their last pages too."""
    problem = replace(PLAIN, page_size=page_size, causal=causal)
    for layout in ("NHD", "HND"):
        result = right(problem, RAGGED, kv_layout=layout, interleaved=layout == "HND", family="ascending")
        empty = [0, 1, -5, -4, -3, -2, -1]
        assert not decode(result.out, problem.storage)[empty].any()
        assert result.lse is not None
        assert (result.lse[empty] == -np.inf).all()


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize(
    "head_dim",
    [pytest.param(one, marks=() if one in (80, 128) else pytest.mark.nightly) for one in (*HEAD_DIMS, 48)],
)
def test_wgmma_prefill_right_for_every_head_dim(head_dim: int) -> None:
    dtype = ("bfloat16", "float16")[head_dim // 16 % 2]
    problem = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=head_dim, page_size=16, dtype=dtype)
    right(problem, RAGGED)


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("group", [1, 3, 7, 40])
def test_wgmma_prefill_right_for_any_group(group: int) -> None:
    right(replace(PLAIN, num_qo_heads=2 * group), Batch(kv_lens=(9, 170, 30), q_lens=(13, 20, 9)))


FEATURES: tuple[dict[str, Any], ...] = (
    {"window": 50, "soft_cap": 20.0, "sinks": (1.0, 2.0, 0.5, 3.0)},
    {"window": 128, "causal": False},
    {"alibi_slopes": (0.5, 0.25, 0.125, 1.0)},
)


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("features", FEATURES)
def test_wgmma_prefill_right_with_features(features: dict[str, Any]) -> None:
    for family in ("window-edge", "ascending"):
        right(replace(PLAIN, **features), RAGGED, family=family)


@needs_nvrtc
@pytest.mark.slow
def test_wgmma_prefill_touches_nothing_but_its_own() -> None:
    """Every access, fence, barrier and product looked at, through more tiles than there are stages."""
    device = hopper(checked=True)
    for page_size, batch in ((7, RAGGED), (16, Batch(kv_lens=(700, 3), q_lens=(70, 9)))):
        for tail in ("minus-one", "int-max"):
            right(replace(PLAIN, page_size=page_size), batch, device, tail=tail)
    assert device.findings == []


# --- boxes --------------------------------------------------------------------------------------------------

LONG = Batch(kv_lens=(700, 128, 256, 130, 40), q_lens=(150, 128, 20, 130, 9))


def both_ways(tensors: Tensors, device: Any = None) -> None:
    """By boxes and by 16-byte copies: right, and the same bits."""
    results = [run(planned(tensors, device, boxes=boxes)) for boxes in (True, False)]
    assert_right(tensors, results[0])
    assert bits(results[0]) == bits(results[1])


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize(("page_size", "tokens"), [(16, 16), (48, 16), (64, 64), (96, 32), (1024, 128)])
def test_wgmma_boxes_bring_what_copies_do(page_size: int, tokens: int) -> None:
    problem = replace(PLAIN, page_size=page_size)
    for layout, interleaved in (("NHD", False), ("HND", True)):
        case = Case(problem=problem, batch=LONG, poison="nan", kv_layout=layout, interleaved=interleaved)
        tensors = build_tensors(case)
        assert box_tokens(tensors.pool) == tokens
        both_ways(tensors)


@needs_nvrtc
@pytest.mark.slow
def test_wgmma_boxes_of_heads_that_end_within_a_panel() -> None:
    both_ways(
        build_tensors(Case(problem=replace(PLAIN, head_dim=80, page_size=32), batch=LONG, poison="inf"))
    )


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("more", [{"window": 200}, {"window": 300, "causal": False}, {"causal": False}])
def test_wgmma_boxes_leave_what_no_row_sees(more: dict[str, Any]) -> None:
    """Infinities lie before windows and behind ends, in pages of which the rest is seen."""
    problem = replace(PLAIN, page_size=64, **more)
    for batch in (LONG, Batch(kv_lens=(1000,), q_lens=(20,))):
        both_ways(build_tensors(Case(problem=problem, batch=batch, poison="inf", family="window-edge")))


@needs_nvrtc
@pytest.mark.slow
def test_wgmma_boxes_are_looked_at_on_the_checked_device() -> None:
    device = hopper(checked=True)
    both_ways(build_tensors(Case(problem=replace(PLAIN, page_size=16), batch=LONG, poison="nan")), device)
    assert device.findings == []


@needs_nvrtc
@pytest.mark.slow
def test_wgmma_boxes_are_what_whole_tiles_come_in() -> None:
    """Without maps a batch runs as long as it has none."""
    problem = replace(PLAIN, page_size=16)

    def without_maps(kv_len: int) -> None:
        plan = planned(build_tensors(Case(problem=problem, batch=Batch(kv_lens=(kv_len,), q_lens=(20,)))))
        bare = [replace(one, args=with_maps(one.args, (NO_MAP, NO_MAP))) for one in plan.launches]
        run(replace(plan, launches=tuple(bare)))

    without_maps(127)
    with pytest.raises(DeviceFault, match="no tensor map at"):
        without_maps(128)


@pytest.mark.parametrize("page_size", [1, 8, 24, 15])
def test_wgmma_small_and_odd_pages_have_no_boxes(page_size: int) -> None:
    tensors = build_tensors(Case(problem=replace(PLAIN, page_size=page_size), batch=RAGGED))
    assert box_tokens(tensors.pool) == 0
    assert tensor_maps(hopper(), tensors.pool) == (NO_MAP, NO_MAP)


@needs_nvrtc
@pytest.mark.slow
def test_wgmma_layers_have_maps_of_their_own() -> None:
    problem = replace(PLAIN, page_size=16)
    first, second = (
        build_tensors(Case(problem=problem, batch=Batch(kv_lens=(300, 140), q_lens=(30, 1)), seed=seed))
        for seed in (1, 2)
    )
    second = replace(second, layout=first.layout)
    backend = RawKernelWgmmaBackend(hopper())
    plan = backend.plan(first)
    other = backend.layer(plan, second.q, second.pool)
    backend.prepare(plan)
    for tensors, call in ((first, plan), (second, other)):
        backend.run_layer(call)
        assert_right(tensors, backend.fetch(call))


# --- a row's bits are its own -------------------------------------------------------------------------------


@needs_nvrtc
@pytest.mark.slow
def test_wgmma_prefill_does_not_see_the_batch_nor_where_a_prompt_is_cut() -> None:
    tensors = build_tensors(Case(problem=PLAIN, batch=RAGGED, family="ascending"))
    together = run(planned(tensors))
    for sequence, queries in enumerate(RAGGED.query_lens):
        start = int(tensors.qo_indptr[sequence])
        for cut in {0, queries // 3}:
            for first, end in ((0, cut), (cut, queries)):
                if end > first:
                    alone = run(planned(part(tensors, sequence, first, end)))
                    assert bits(alone) == bits(together, slice(start + first, start + end))


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("change", [{"window": 400}, {"alibi_slopes": (0.0,) * 4}, {"sinks": (-1e6,) * 4}])
def test_wgmma_prefill_features_that_change_nothing_change_no_bit(change: dict[str, Any]) -> None:
    tensors = build_tensors(Case(problem=PLAIN, batch=Batch(kv_lens=(300, 170), q_lens=(70, 70))))
    case = replace(tensors.case, problem=replace(PLAIN, **change))
    assert bits(run(planned(replace(tensors, case=case)))) == bits(run(planned(tensors)))


@needs_nvrtc
@pytest.mark.slow
def test_wgmma_prefill_no_bit_depends_on_stages() -> None:
    tensors = build_tensors(Case(problem=PLAIN, batch=Batch(kv_lens=(900,), q_lens=(140,))))
    results = [run(planned(tensors, shape=WgmmaShape(tile_tokens=128, stages=stages))) for stages in (2, 4)]
    assert bits(results[0]) == bits(results[1])


@needs_nvrtc
@pytest.mark.slow
def test_wgmma_prefill_replays_after_lengths_change_in_place() -> None:
    problem = replace(PLAIN, page_size=3)
    full = Batch(kv_lens=(300, 30, 64, 150), q_lens=(140, 9, 64, 30))
    tensors = build_tensors(Case(problem=problem, batch=full))
    plan = planned(tensors)
    for batch in (Batch(kv_lens=(1, 3, 0, 150), q_lens=(243, 0, 0, 0)), full):
        tensors.kv_lens[...], tensors.qo_indptr[...] = batch.kv_lens, batch.qo_indptr
        assert_right(replace(tensors, case=replace(tensors.case, batch=batch)), run(plan))


# --- the backend --------------------------------------------------------------------------------------------


@needs_nvrtc
@pytest.mark.slow
def test_wgmma_backend_splits_a_mixed_batch_and_leaves_decode_as_it_is() -> None:
    batch = Batch(kv_lens=(140, 200, 33), q_lens=(1, 40, 9))
    tensors = build_tensors(Case(problem=PLAIN, batch=batch, poison="nan"))
    result = attend(RawKernelWgmmaBackend(hopper()), tensors)
    assert_right(tensors, result)
    assert bits(result, slice(0, 1)) == bits(attend(RawKernelMmaBackend(hopper()), tensors), slice(0, 1))


@pytest.mark.parametrize("name", ["ptx:sm_80", "ptx:sm_100a", "emulated"])
def test_wgmma_backend_refuses_other_architectures_before_anything_runs(name: str) -> None:
    with pytest.raises(
        Unsupported,
        match=rf"^rawkernel-wgmma: wgmma is on sm_90a alone, not on {name.removeprefix('ptx:')}; .*90a$",
    ):
        load_backend("rawkernel-wgmma", open_device(name))


def test_wgmma_backend_refuses_caches_of_e4m3() -> None:
    backend = RawKernelWgmmaBackend(hopper())
    case = Case(problem=replace(PLAIN, kv_dtype="e4m3"), batch=Batch(kv_lens=(20,), q_lens=(20,)))
    assert backend.capabilities.why_not(case) == "no fp8-kv"


# --- shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head_dim", "stages", "shared"),
    [(64, 4, 148_480), (80, 3, 230_400), (128, 3, 230_400), (192, 3, 197_632), (256, 2, 197_632)],
)
def test_wgmma_shape_takes_as_many_stages_as_fit(head_dim: int, stages: int, shared: int) -> None:
    """The table in docs/kernels.md."""
    shape = wgmma_shape(head_dim, LIMITS)
    assert (shape.stages, shape.shared_bytes(head_dim)) == (stages, shared)
    assert shape.tile_tokens == (128 if head_dim <= 128 else 64)


def test_wgmma_shape_needs_a_multiprocessor_with_room() -> None:
    small = DeviceLimits(multiprocessors=1, shared_bytes_per_block=99 * 1024, shared_bytes_per_sm=100 * 1024)
    with pytest.raises(InvalidCase, match="needs more shared memory than a block has here"):
        wgmma_shape(128, small)


def test_wgmma_instances_are_for_one_architecture() -> None:
    found = tuple(instances())
    assert {one.architectures for one in found} == {frozenset({"sm_90a"})}
    assert len(found) == len(HEAD_DIMS) * 2 * 2
    assert ROWS == 128
