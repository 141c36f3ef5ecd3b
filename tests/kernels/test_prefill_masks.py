# SPDX-License-Identifier: Apache-2.0
"""Tensor-core prefill where rows see sets of keys: right, and nothing read that no row of a block sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pabench.device.checked import CheckedDevice
from pabench.device.emulated import EmulatedDevice
from pabench.kernels.decode_simple import AttentionPlan
from pabench.kernels.mask_bits import mask_bits
from pabench.kernels.prefill import PLAN, PREFILL, PrefillShape
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.dtypes import Array
from pabench.problem.masks import MASKS
from pabench.problem.tensors import Tensors
from pabench.problem.visibility import seen_keys
from pabench.strategies import cases, long_prefill_batches, prefill_batches
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from tests.support.counting import counting_device
from tests.support.kernel_support import bits, judged
from tests.support.prefill_support import FEW, MANY, assert_right, planned, run
from tests.support.probe import DEVICE

PROBLEM = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=16, page_size=5, dtype="bfloat16")
BATCH = Batch(kv_lens=(700, 63, 330, 9, 0, 90), q_lens=(180, 63, 70, 1, 3, 0))
SPANS = ("image-spans", [[(3, 40), (500, 640)], [(0, 63)], [(100, 120), (270, 330)], [], [], []])
LOCAL = ("two-sided-window", (33, 20))
TREE = ("draft-tree", [[max(-1, (draft - 1) // 2) for draft in range(q)] for q in (180, 63, 70, 1, 0, 0)])
TREES = replace(BATCH, q_lens=(180, 63, 70, 1, 0, 0))
CASES = {
    "spans": Case(problem=PROBLEM, batch=BATCH, poison="nan", masks=(SPANS,)),
    "local": Case(problem=replace(PROBLEM, causal=False), batch=BATCH, poison="nan", masks=(LOCAL,)),
    "tree": Case(problem=PROBLEM, batch=TREES, poison="nan", masks=(TREE,)),
    "pages": Case(
        problem=replace(PROBLEM, causal=False),
        batch=BATCH,
        poison="nan",
        masks=(("page-lists", [[3, 99, -1, 120], [0, 12], [65, 1, 2], [], [], [4]]),),
    ),
}


def masked(tensors: Tensors, device: EmulatedDevice = DEVICE, **options: Any) -> AttentionPlan:
    return planned(tensors, device, mask=mask_bits(device, tensors.case), **options)


def blocks(case: Case, shape: PrefillShape) -> list[tuple[int, int, Array]]:
    """Sequence, first packed row, and the keys that the rows see, ``(rows, kv_len)``, of each block."""
    found = []
    for sequence, queries in enumerate(case.batch.query_lens):
        seen = np.repeat(seen_keys(case, sequence), case.problem.group_size, 0)
        found += [
            (sequence, first, seen[first : first + shape.rows]) for first in range(0, len(seen), shape.rows)
        ]
        assert len(seen) == queries * case.problem.group_size
    return found


def tiled(seen: Array, tile: int) -> Array:
    """Keys as ``(rows, tiles, tile)``, none behind the last."""
    return np.pad(seen, ((0, 0), (0, -seen.shape[1] % tile))).reshape(len(seen), -1, tile)


@pytest.mark.parametrize("name_of", [name for name, mask in MASKS.items() if not mask.rows_in_keys])
@settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_kernels_prefill_masks_right_property(name_of: str, data: st.DataObject) -> None:
    """Over several tiles and blocks, with whatever else is asked for."""
    backend = RawKernelMmaBackend(DEVICE)
    drawn = cases(
        required=[name_of],
        features=[name for name in ("window", "sinks", "fp8-kv") if name not in MASKS[name_of].without],
        dtypes=["bfloat16"],
        head_dims=[16],
        poisons=["nan"],
        batch=lambda page_size: prefill_batches(page_size) | long_prefill_batches(page_size),
        supported=lambda case: backend.capabilities.why_not(case) is None,
    )
    judged(backend, build_tensors(data.draw(drawn)))


@pytest.mark.parametrize("name", CASES)
def test_kernels_prefill_masks_no_bit_depends_on_the_rows_of_a_block(name: str) -> None:
    for more in ({}, {"soft_cap": 20.0, "sinks": (1.0,) * 6}, {"kv_dtype": "e4m3"}, {"head_dim_v": 48}):
        case = replace(CASES[name], problem=replace(CASES[name].problem, **more))
        tensors = build_tensors(case)
        results = [run(masked(tensors, shape=shape)) for shape in (FEW, MANY)]
        assert_right(tensors, results[0])
        assert bits(results[0]) == bits(results[1])


def test_kernels_prefill_masks_that_say_what_the_causal_flag_says_change_no_bit() -> None:
    """Tiles seen whole, in part and not at all: the same sums in the same order."""
    for more in ({}, {"window": 70}, {"causal": False}, {"alibi_slopes": (0.5,) * 6}):
        tensors = build_tensors(Case(problem=replace(PROBLEM, **more), batch=BATCH))
        assert bits(run(masked(tensors, shape=FEW))) == bits(run(planned(tensors, shape=FEW)))


def test_kernels_prefill_masks_rows_that_see_nothing() -> None:
    case = CASES["pages"]
    result = run(masked(build_tensors(case)))
    assert result.lse is not None
    seen = [seen_keys(case, sequence).any(1) for sequence in range(case.batch.num_seqs)]
    nothing = ~np.concatenate(seen)
    assert nothing.sum() == 4
    assert (result.lse[nothing] == -np.inf).all()
    assert not result.out[nothing].any()
    sunk = replace(case, problem=replace(case.problem, sinks=(0.5,) * 6))
    sunk_lse = run(masked(build_tensors(sunk))).lse
    assert sunk_lse is not None
    assert sunk_lse[nothing] == pytest.approx(0.5)


def test_kernels_prefill_masks_touch_nothing_but_their_own() -> None:
    device = CheckedDevice()
    for (name, tail), shape in zip(
        (("spans", "int-max"), ("pages", "minus-one"), ("tree", "int-max")), (FEW, MANY, FEW), strict=True
    ):
        tensors = build_tensors(replace(CASES[name], tail=tail))
        assert_right(tensors, run(masked(tensors, device, shape=shape)))
    assert device.findings == []


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [FEW, MANY])
def test_kernels_prefill_masks_lists_say_who_sees_what(name: str, shape: PrefillShape) -> None:
    case = CASES[name]
    plan = masked(build_tensors(case), shape=shape)
    assert [launch.entry for launch in plan.launches] == [PLAN, PLAN, PREFILL]
    assert plan.planning == 2
    run(plan)
    lists, counts = plan.launches[0].args[-3:-1]
    starts, order = plan.launches[1].args[2:4]
    indptr, group = case.batch.qo_indptr, case.problem.group_size
    expected = blocks(case, shape)
    costs = {}
    for sequence, first, seen in expected:
        place = int(indptr[sequence]) * group // shape.rows + sequence + first // shape.rows
        rows = tiled(seen, shape.tile_tokens)
        live = np.flatnonzero(rows.any((0, 2)))
        costs[sequence, first] = len(live)
        assert counts[place] == len(live)
        tile, sees, keys = np.split(lists[place, : len(live)], [1, 2], axis=1)
        assert tile[:, 0].tolist() == live.tolist()
        words = np.packbits(np.any(rows, axis=0)[live], axis=1, bitorder="little").view("<u4")
        assert (keys == words).all()
        for warp in range(shape.warps):
            own = rows[16 * warp : 16 * warp + 16][:, live]
            some, whole = ((sees[:, 0] >> bit & 1) != 0 for bit in (warp, 16 + warp))
            assert (some == own.any((0, 2))).all()
            assert (whole == (own.all((0, 2)) & (len(own) > 0))).all()
    ordered = [costs[int(sequence), int(first)] for sequence, first in order[: starts[-1]]]
    assert len(ordered) == len(expected)
    # exact up to 16 tiles
    assert max(ordered) <= 16
    assert ordered == sorted(ordered, reverse=True)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kv_dtype", [None, "e4m3"])
def test_kernels_prefill_masks_counted_against_the_visible_tokens(name: str, kv_dtype: str | None) -> None:
    """Each block reads the keys that some row of it sees, once; a warp multiplies the tiles that it sees."""
    case = replace(CASES[name], problem=replace(CASES[name].problem, kv_dtype=kv_dtype, head_dim=64))
    problem, device = case.problem, counting_device()
    plan = masked(build_tensors(case), device, shape=FEW)
    for launch in plan.launches:
        plan.module.launch(launch)
    counted = device.counters[PREFILL]
    found = [tiled(seen, FEW.tile_tokens) for _, _, seen in blocks(case, FEW)]
    tokens = sum(int(seen.any(0).sum()) for seen in found)
    assert counted.loaded_bytes("k", "v") == tokens * problem.token_bytes
    assert counted.loaded_bytes("block_table") == 4 * tokens * problem.num_kv_heads
    warps = sum(
        int(seen[row : row + 16].any((0, 2)).sum()) for seen in found for row in range(0, len(seen), 16)
    )
    # 16 rows by 64 keys: head_dim / 16 steps of 8 products, and 4 steps of head_dim / 8
    products = warps * problem.num_kv_heads * (4 * 8 + 4 * 8)
    assert counted.totals().matrix_products == {"m16n8k16.bf16": products}
    assert counted.totals().bank_conflicts == 0


def test_kernels_prefill_masks_follow_what_changes_in_place() -> None:
    """Lengths and bits: one plan for what is drafted from step to step."""
    before, after = (replace(CASES["tree"], masks=masks) for masks in (CASES["tree"].masks, ()))
    tensors = build_tensors(replace(before, poison="zero"))
    plan = masked(tensors)
    first = run(plan)
    words = plan.launches[0].args[-5]
    kept = words.copy()
    words[...] = np.asarray(mask_bits(DEVICE, after).words)
    changed = run(plan)
    assert bits(changed) != bits(first)
    assert_right(replace(tensors, case=replace(after, poison="zero")), changed)
    words[...] = kept
    assert bits(run(plan)) == bits(first)


def test_kernels_prefill_masks_one_plan_serves_many_layers() -> None:
    backend, case = RawKernelMmaBackend(DEVICE), replace(CASES["spans"], placement="identity")
    one, other = (build_tensors(replace(case, seed=seed)) for seed in (1, 2))
    plan = backend.plan(one)
    assert [[launch.entry for launch in call.launches] for call in plan] == [[PLAN, PLAN, PREFILL]]
    second = backend.layer(plan, other.q, other.pool)
    backend.prepare(plan)
    for tensors, layer in ((one, plan), (other, second)):
        backend.run_layer(layer)
        assert_right(tensors, backend.fetch(layer))


def test_kernels_prefill_masks_take_short_sequences_too() -> None:
    """Decode steps and drafts in a batch with a prompt: lists of keys are of short sequences alone."""
    backend = RawKernelMmaBackend(DEVICE)
    problem = replace(PROBLEM, causal=False)
    case = Case(
        problem=problem, batch=Batch(kv_lens=(300, 70, 40), q_lens=(1, 5, 9)), poison="nan", masks=(LOCAL,)
    )
    tensors = build_tensors(case)
    assert [call.launches[-1].entry for call in backend.plan(tensors)] == [PREFILL]
    judged(backend, tensors)
