# SPDX-License-Identifier: Apache-2.0
"""Batches of decode steps and prompts: each sequence goes to the kernel that suits it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.device.checked import CheckedDevice
from pabench.kernels.decode import DECODE
from pabench.kernels.prefill import PREFILL, plan_prefill
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from tests.support.counting import counting_device
from tests.support.kernel_support import bits, judged
from tests.support.probe import DEVICE

PROBLEM = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=5, dtype="bfloat16")
MIXED = Batch(kv_lens=(90, 40, 7, 200, 0, 65), q_lens=(1, 9, 0, 8, 1, 30))


def tensors_of(batch: Batch, problem: Problem = PROBLEM, **options: Any) -> Tensors:
    return build_tensors(Case(problem=problem, batch=batch, **options))


@pytest.mark.parametrize(
    ("q_lens", "entries"),
    [
        ((8, 1), [DECODE]),
        ((9, 1), [DECODE, PREFILL]),
        ((9, 30), [PREFILL]),
        ((0, 0), [DECODE]),
    ],
)
def test_kernels_mixed_batches_take_the_kernels_they_need(
    q_lens: tuple[int, ...], entries: list[str]
) -> None:
    tensors = tensors_of(Batch(kv_lens=(20, 30), q_lens=q_lens))
    backend = RawKernelMmaBackend(DEVICE)
    assert [call.launches[1].entry for call in backend.plan(tensors)] == entries
    judged(backend, tensors)


def test_kernels_mixed_calls_write_their_own_rows_and_read_nothing_else() -> None:
    """The other call's rows stay as they were, and pages of its sequences may hold anything."""
    device = CheckedDevice(workers=2)
    backend = RawKernelMmaBackend(device)
    tensors = tensors_of(MIXED, poison="nan", tail="int-max")
    judged(backend, tensors)
    indptr = MIXED.qo_indptr
    long = np.repeat([length > 8 for length in MIXED.query_lens], MIXED.query_lens)
    for one, others in ((0, long), (1, ~long)):
        calls = backend.plan(tensors)
        table = np.asarray(calls[one].launches[1].args[3])
        for sequence in range(MIXED.num_seqs):
            if indptr[sequence] < indptr[sequence + 1] and others[indptr[sequence]]:
                table[sequence] = -(2**31)
        backend.run((calls[one],))
        out, lse = np.asarray(calls[one].out), np.asarray(calls[one].lse)
        assert (out[others] == 0xFFFF).all()
        assert (lse[others].view(np.uint32) == 0xFFFFFFFF).all()
        assert not (lse[~others].view(np.uint32) == 0xFFFFFFFF).any()
    assert device.findings == []


@settings(max_examples=25, deadline=None, database=None)
@given(data=st.data(), features=st.booleans(), split_tokens=st.sampled_from([0, 64]))
def test_kernels_mixed_batches_are_right_property(
    data: st.DataObject, features: bool, split_tokens: int
) -> None:
    lengths = st.tuples(st.integers(0, 150), st.sampled_from([0, 1, 1, 2, 7, 8, 9, 16, 40]))
    pairs = data.draw(st.lists(lengths, min_size=1, max_size=6))
    batch = Batch(kv_lens=tuple(kv for kv, _ in pairs), q_lens=tuple(q for _, q in pairs))
    problem = replace(PROBLEM, window=33, soft_cap=20.0, sinks=(0.5,) * 4) if features else PROBLEM
    judged(RawKernelMmaBackend(DEVICE, split_tokens=split_tokens), tensors_of(batch, problem, poison="nan"))


def test_kernels_mixed_plans_follow_lengths_that_change_in_place() -> None:
    """What was a decode step becomes a chunk of a prompt, and the other way round: the plan stands."""
    before = Batch(kv_lens=(90, 40, 70, 200), q_lens=(1, 39, 2, 8))
    tensors = tensors_of(Batch(kv_lens=(91, 41, 90, 201), q_lens=(9, 1, 40, 0)))
    backend = RawKernelMmaBackend(DEVICE)
    calls = backend.plan(tensors)
    expected = judged(backend, tensors)
    kv_lens, qo_indptr = calls[0].launches[0].args[:2]
    kv_lens[...], qo_indptr[...] = before.kv_lens, before.qo_indptr
    backend.run(calls)
    assert bits(backend.fetch(calls)) != bits(expected)
    kv_lens[...], qo_indptr[...] = tensors.case.batch.kv_lens, tensors.case.batch.qo_indptr
    backend.run(calls)
    assert bits(backend.fetch(calls)) == bits(expected)


def test_kernels_mixed_prompts_do_not_change_the_bits_of_a_decode_step() -> None:
    backend = RawKernelMmaBackend(DEVICE, split_tokens=64)
    problem = replace(PROBLEM, head_dim=64)
    tensors = tensors_of(Batch(kv_lens=(300, 70), q_lens=(2, 40)), problem)
    alone = replace(
        tensors,
        case=replace(tensors.case, batch=Batch(kv_lens=(300,), q_lens=(2,))),
        q=tensors.q[:2],
        layout=replace(tensors.layout, block_table=tensors.layout.block_table[:1]),
        kv_lens=tensors.kv_lens[:1],
        qo_indptr=tensors.qo_indptr[:2],
    )
    assert bits(judged(backend, tensors), slice(0, 2)) == bits(judged(backend, alone))


def test_kernels_mixed_prompts_need_no_room_for_partial_results() -> None:
    """Or one prompt of 32,768 tokens would ask for terabytes: 16,384 blocks of rows in 512 pieces each."""

    def slots(prompt: int) -> int:
        tensors = tensors_of(Batch(kv_lens=(300, 300), q_lens=(2, prompt)))
        short, _ = RawKernelMmaBackend(DEVICE, split_tokens=64).plan(tensors)
        partial_out = short.launches[1].args[11]
        assert partial_out.shape[1:] == (16, PROBLEM.head_dim)
        return int(partial_out.shape[0])

    # of 16 rows at most, and one more block of rows for each sequence, in 5 pieces
    assert slots(20) == slots(250) == (16 * 2 // 16 + 2) * 2 * 5


@pytest.mark.parametrize("query_len", [1, 2, 8])
def test_kernels_mixed_counted_against_prefill_alone(query_len: int) -> None:
    """What the decode kernel's part costs: no more products, and the KV bytes of a read for each 16 rows."""
    problem = replace(PROBLEM, num_qo_heads=8, num_kv_heads=2, head_dim=64, page_size=16)
    short = (640, 640, 320)
    batch = Batch(kv_lens=(*short, 128), q_lens=(*([query_len] * len(short)), 128))
    tensors = tensors_of(batch, problem)
    mixed, alone = counting_device(), counting_device()
    backend = RawKernelMmaBackend(mixed)
    backend.run(backend.plan(tensors))
    rest = plan_prefill(
        alone,
        problem,
        q=tensors.q,
        pool=tensors.pool,
        block_table=tensors.layout.block_table,
        kv_lens=tensors.kv_lens,
        qo_indptr=tensors.qo_indptr,
    )
    for launch in rest.launches:
        rest.module.launch(launch)

    def products(device: CheckedDevice) -> int:
        named = (device.counters[name] for name in (DECODE, PREFILL) if name in device.counters)
        return sum(one.totals().matrix_products["m16n8k16.bf16"] for one in named)

    assert products(mixed) <= products(alone)
    reads = -(-query_len * problem.group_size // 16)  # blocks of 16 packed rows, each reads the keys
    assert mixed.counters[DECODE].loaded_bytes("k", "v") == reads * sum(short) * problem.token_bytes
    prompt = mixed.counters[PREFILL].loaded_bytes("k", "v")
    assert alone.counters[PREFILL].loaded_bytes("k", "v") - prompt == sum(short) * problem.token_bytes
