# SPDX-License-Identifier: Apache-2.0
"""A decode step in two launches: the allocator's, which plans the attention as well, and the attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.device.base import Launch
from pabench.device.checked import CheckedDevice
from pabench.errors import InvalidCase
from pabench.kernels import alloc_scan
from pabench.kernels.decode import StepPlan, plan_decode, step_plan
from pabench.problem import Problem
from pabench.problem.dtypes import encode
from pabench.problem.pool import KvPool
from tests.support.probe import DEVICE

PAGE_SIZE, PAGES, WIDTH, HEAD_DIM = 4, 300, 40, 16


def made(device: Any, max_seqs: int, blocks: int, **asked: Any) -> tuple[Any, Any, Any, Problem]:
    """An allocator, query rows for its even sequences, a decode call over both, and its problem."""
    window, split_tokens = asked.pop("window", None), asked.pop("split_tokens", 0)
    state = alloc_scan.new_state(
        device,
        num_pages=PAGES,
        page_size=PAGE_SIZE,
        max_seqs=max_seqs,
        max_pages_per_seq=WIDTH,
        blocks=blocks,
    )
    problem = Problem(
        num_qo_heads=4,
        num_kv_heads=2,
        head_dim=HEAD_DIM,
        page_size=PAGE_SIZE,
        dtype="bfloat16",
        window=window,
    )
    rng = np.random.default_rng(max_seqs)
    storage = encode(rng.standard_normal((2, PAGES, PAGE_SIZE, 2, HEAD_DIM)), problem.storage)
    rows = (np.arange(max_seqs) % 2 == 0).astype(np.int32)
    indptr = np.concatenate(([0], np.cumsum(rows))).astype(np.int32)
    plan = plan_decode(
        device,
        problem,
        q=device.to_device(encode(rng.standard_normal((int(indptr[-1]), 4, HEAD_DIM)), problem.storage)),
        pool=KvPool(storage=device.to_device(storage), kv_layout="NHD", interleaved=False),
        block_table=state.block_table,
        kv_lens=state.lengths,
        qo_indptr=device.to_device(indptr),
        split_tokens=split_tokens,
        blocks=7,
    )
    return state, rows, plan, problem


def grow(state: Any, sequences: Any, tokens: Any, **more: Any) -> alloc_scan.Status:
    device, count = state.device, state.lengths.shape[0]
    named, counts = np.full(count, -1, np.int32), np.zeros(count, np.int32)
    named[: len(sequences)], counts[: len(sequences)] = sequences, tokens
    slots = device.empty((PAGES * PAGE_SIZE,), np.dtype(np.int64))
    alloc_scan.extend(state, device.to_device(named), device.to_device(counts), slots, **more)
    return alloc_scan.read_status(state)


def written(plan: Any) -> list[bytes]:
    """Line, first and arrivals; what lies behind the shares in use is nobody's."""
    _, _, line, first, arrivals = plan.launches[0].args[:5]
    used = min(int(line[-1]), first.shape[0])
    return [line.tobytes(), first[:used].tobytes(), arrivals.tobytes()]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    max_seqs=st.sampled_from([5, 33, 70]),
    blocks=st.sampled_from([1, 2, 4]),
    window=st.sampled_from([None, 1, 9, 70]),
    split_tokens=st.sampled_from([0, 64]),
)
def test_kernels_step_plans_what_the_plan_kernel_does_property(
    seed: int, max_seqs: int, blocks: int, window: int | None, split_tokens: int
) -> None:
    rng = np.random.default_rng(seed)
    DEVICE.reschedule(seed)
    state, rows, plan, problem = made(DEVICE, max_seqs, blocks, window=window, split_tokens=split_tokens)
    live = np.flatnonzero(rows)
    lengths = np.minimum(rng.integers(0, 100, live.size), PAGES // live.size * PAGE_SIZE - 4)
    assert grow(state, live, lengths).code == alloc_scan.OK
    step = step_plan(plan, problem)
    for array in plan.launches[0].args[2:5]:
        array.view(np.uint8)[...] = 0xEE
    assert grow(state, live, np.ones(live.size, np.int32), plan=step).code == alloc_scan.OK
    fused = written(plan)
    for array in plan.launches[0].args[2:5]:
        array.view(np.uint8)[...] = 0xDD
    plan.module.launch(plan.launches[0])
    assert written(plan) == fused  # before the attention runs: a wrong plan leads it anywhere
    grow(state, live, np.zeros(live.size, np.int32), plan=step)
    plan.module.launch(step.decode)
    assert np.isfinite(plan.lse).all()


def test_kernels_step_that_is_refused_plans_for_the_old_lengths() -> None:
    state, rows, plan, problem = made(DEVICE, 6, 2)
    live = np.flatnonzero(rows)
    grow(state, live, np.full(live.size, 11))
    refused = grow(state, live, np.full(live.size, 10**6), plan=step_plan(plan, problem))
    assert refused.code == alloc_scan.ROW_TOO_SHORT
    fused = written(plan)
    plan.module.launch(plan.launches[0])
    assert written(plan) == fused


def test_kernels_step_is_clean_on_the_checked_device() -> None:
    """The arrays of a plan alone, so that no attention kernel has to be compiled for it."""
    for seed in range(3):
        device = CheckedDevice(seed=seed)
        state = alloc_scan.new_state(
            device, num_pages=PAGES, page_size=PAGE_SIZE, max_seqs=70, max_pages_per_seq=WIDTH, blocks=2
        )
        indptr = device.to_device(np.arange(71, dtype=np.int32))
        line, first = (device.empty((n,), np.dtype(kind)) for n, kind in ((71, np.int64), (3, np.int32)))
        arrivals = device.empty((6,), np.dtype(np.uint32))
        heads_and_cut = tuple(map(np.int32, (2, 2, 64, 0, 9, 3, 6)))
        launch = Launch(entry="", grid=(1, 1, 1), block=(32, 1, 1), args=())
        args = (indptr, line, first, arrivals, *heads_and_cut)
        step = StepPlan(kv_lens=state.lengths, args=args, decode=launch)
        assert grow(state, np.arange(70), np.full(70, 16), plan=step).tokens == 70 * 16
        assert grow(state, np.arange(70), np.ones(70, np.int32), prefix=True, plan=step).code == alloc_scan.OK
        assert int(device.to_host(line)[-1]) == 70 * 2  # a tile and the unit's own, the same for each KV head


def test_kernels_step_wants_the_lengths_of_the_allocator() -> None:
    state, _, _, _ = made(DEVICE, 6, 1)
    _, _, other, problem = made(DEVICE, 6, 1)
    with pytest.raises(InvalidCase, match="must be the lengths of the allocator"):
        grow(state, [0], [1], plan=step_plan(other, problem))
