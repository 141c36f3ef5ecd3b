# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pabench.device.base import DeviceLimits
from pabench.device.checked import CheckedDevice
from pabench.device.occupancy import SM_LIMITS
from pabench.errors import InvalidCase, Unsupported
from pabench.judge.reference import truth
from pabench.judge.verdict import judge
from pabench.kernels.decode import (
    DecodeShape,
    decode_shape,
    instances,
    plan_decode,
)
from pabench.kernels.decode_simple import AttentionPlan
from pabench.kernels.fitted import architecture_limits
from pabench.kernels.instance import HEAD_DIMS
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.dtypes import decode
from pabench.problem.tensors import Tensors
from pabench.strategies import cases, speculative_batches
from pabench.subjects.backends.base import AttentionOutput, attend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from tests.support.kernel_support import bits, shifted
from tests.support.probe import DEVICE

KIB = 1024
LENGTHS = (0, 1, 15, 16, 17, 64, 65, 127, 200, 700, 0)
CUTS: tuple[dict[str, int], ...] = ({"blocks": 1}, {"blocks": 3}, {"blocks": 40}, {"split_tokens": 128})


def assert_right(tensors: Tensors, backend: RawKernelMmaBackend) -> AttentionOutput:
    result = attend(backend, tensors)
    verdict = judge(tensors, result.out, result.lse, backend.profile)
    assert verdict.passed, verdict.text
    return result


@pytest.mark.parametrize("head_dim", [*HEAD_DIMS, 48, 240])
def test_kernels_decode_mma_right_wherever_the_work_is_cut(head_dim: int) -> None:
    dtype = ("bfloat16", "float16")[head_dim // 16 % 2]
    problem = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=head_dim, page_size=7, dtype=dtype)
    batch = Batch(kv_lens=LENGTHS, q_lens=(1, 1, 2, 1, 8, 5, 0, 1, 6, 1, 3))
    tensors = build_tensors(Case(problem=problem, batch=batch, poison="nan", family="ascending"))
    for cut in CUTS:
        result = assert_right(tensors, RawKernelMmaBackend(DEVICE, **cut))
        assert not decode(result.out, problem.storage)[[0, -1]].any()
        assert result.lse is not None
        assert (result.lse[[0, -1]] == -np.inf).all()


@pytest.mark.parametrize("group", [*range(1, 17), 20, 40])
def test_kernels_decode_mma_right_for_every_group_size(group: int) -> None:
    problem = Problem(num_qo_heads=2 * group, num_kv_heads=2, head_dim=16, page_size=4, dtype="float16")
    for q_lens in ((1, 1, 1), (3, 8, 1)):
        batch = Batch(kv_lens=(9, 70, 2), q_lens=q_lens)
        assert_right(
            build_tensors(Case(problem=problem, batch=batch, family="spotlight")), RawKernelMmaBackend(DEVICE)
        )


@pytest.mark.parametrize("split_tokens", [0, 64])
def test_kernels_decode_mma_right_for_more_heads_than_blocks(split_tokens: int) -> None:
    """No block waits for one that may not be resident yet, and heads do not meet at each other's places."""
    problem = Problem(num_qo_heads=30, num_kv_heads=10, head_dim=16, page_size=4, dtype="bfloat16")
    batch = Batch(kv_lens=(300, 0, 65, 130), q_lens=(1, 2, 8, 0))
    tensors = build_tensors(Case(problem=problem, batch=batch, poison="nan", family="spotlight"))
    for blocks in (1, 3, 10, 25, 60):
        assert_right(tensors, RawKernelMmaBackend(DEVICE, split_tokens=split_tokens, blocks=blocks))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("page_size", [1, 3, 64, 1000])
def test_kernels_decode_mma_right_with_and_without_causal_mask(causal: bool, page_size: int) -> None:
    problem = Problem(
        num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=page_size, dtype="bfloat16", causal=causal
    )
    batch = Batch(kv_lens=(3, 66, 0, 129), q_lens=(8, 5, 2, 8))
    for layout in ("NHD", "HND"):
        case = Case(problem=problem, batch=batch, poison="inf", kv_layout=layout, interleaved=layout == "HND")
        assert_right(build_tensors(case), RawKernelMmaBackend(DEVICE))


SAME = settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@SAME
@given(case=cases(dtypes=["bfloat16"], head_dims=[16, 80], max_seqs=4), blocks=st.integers(1, 12))
def test_kernels_decode_mma_agrees_with_the_simple_kernel_property(case: Case, blocks: int) -> None:
    """Two right kernels differ by no more than both bounds together."""
    tensors = build_tensors(case)
    simple, fast = RawKernelBackend(DEVICE), RawKernelMmaBackend(DEVICE, blocks=blocks)
    results = [attend(backend, tensors) for backend in (simple, fast)]
    bounds = [truth(tensors, backend.profile) for backend in (simple, fast)]
    outs = [decode(result.out, case.problem.storage).astype(np.float64) for result in results]
    assert (np.abs(outs[0] - outs[1]) <= np.add(*(np.asarray(bound.out_bound) for bound in bounds))).all()
    lses = [np.asarray(result.lse, np.float64) for result in results]
    finite = np.isfinite(lses[0])
    assert (finite == np.isfinite(lses[1])).all()
    allowed = np.add(*(np.asarray(bound.lse_bound) for bound in bounds))
    assert (np.abs(lses[0][finite] - lses[1][finite]) <= allowed[finite]).all()


def alone(tensors: Tensors, sequence: int) -> Tensors:
    """The same arrays with one sequence left of the batch."""
    batch = tensors.case.batch
    lens, queries = batch.kv_lens[sequence], batch.query_lens[sequence]
    rows = slice(int(tensors.qo_indptr[sequence]), int(tensors.qo_indptr[sequence + 1]))
    single = Batch(kv_lens=(lens,), q_lens=(queries,))
    table = np.ascontiguousarray(tensors.layout.block_table[sequence : sequence + 1])
    return replace(
        tensors,
        case=replace(tensors.case, batch=single),
        q=np.ascontiguousarray(tensors.q[rows]),
        layout=replace(tensors.layout, block_table=table),
        kv_lens=tensors.kv_lens[sequence : sequence + 1].copy(),
        qo_indptr=single.qo_indptr,
    )


@SAME
@given(
    case=cases(dtypes=["float16"], head_dims=[16], max_len=400, batch=speculative_batches),
    split_tokens=st.sampled_from([64, 128]),
    blocks=st.integers(1, 12),
)
def test_kernels_decode_mma_fixed_splits_do_not_see_the_batch_property(
    case: Case, split_tokens: int, blocks: int
) -> None:
    """Bit for bit: a sequence alone, on any grid, gives what it gives in the batch."""
    tensors = build_tensors(case)
    together = attend(RawKernelMmaBackend(DEVICE, split_tokens=split_tokens), tensors)
    other = RawKernelMmaBackend(DEVICE, split_tokens=split_tokens, blocks=blocks)
    for sequence, queries in enumerate(case.batch.query_lens):
        if queries:
            first = int(tensors.qo_indptr[sequence])
            assert bits(attend(other, alone(tensors, sequence))) == bits(
                together, slice(first, first + queries)
            )


def test_kernels_decode_mma_equal_shares_do_see_the_batch() -> None:
    """What the fixed splits are for; were this to pass with ==, the property above would say little."""
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=64, page_size=16, dtype="float16")
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(1000, 900, 300))))
    together = attend(RawKernelMmaBackend(DEVICE, blocks=5), tensors)
    by_itself = attend(RawKernelMmaBackend(DEVICE, blocks=5), alone(tensors, 0))
    assert bits(by_itself) != bits(together, slice(0, 1))


def planned(tensors: Tensors, **options: Any) -> AttentionPlan:
    return plan_decode(
        DEVICE,
        tensors.case.problem,
        q=tensors.q,
        pool=tensors.pool,
        block_table=tensors.layout.block_table,
        kv_lens=tensors.kv_lens,
        qo_indptr=tensors.qo_indptr,
        **options,
    )


def run(plan: AttentionPlan, launches: slice = slice(None)) -> AttentionOutput:
    plan.out[...], plan.lse[...] = 0xFFFF if plan.out.dtype == np.uint16 else np.nan, np.nan
    for launch in plan.launches[launches]:
        plan.module.launch(launch)
    return AttentionOutput(out=plan.out.copy(), lse=plan.lse.copy())


@pytest.mark.parametrize("split_tokens", [0, 64])
def test_kernels_decode_mma_replays_after_lengths_change_in_place(split_tokens: int) -> None:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=3, dtype="float16")
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(700, 3, 64, 250))))
    plan = planned(tensors, split_tokens=split_tokens, blocks=7)
    run(plan)
    for lens in ((1, 3, 0, 250), (699, 0, 63, 1), (0, 0, 0, 0), (700, 3, 64, 250)):
        tensors.kv_lens[...] = lens
        again = run(plan)
        fresh = run(planned(tensors, split_tokens=split_tokens, blocks=7))
        assert bits(again) == bits(fresh)
        case = replace(tensors.case, batch=Batch(kv_lens=lens))
        verdict = judge(replace(tensors, case=case), again.out, again.lse, RawKernelMmaBackend.profile)
        assert verdict.passed, verdict.text


@pytest.mark.parametrize("split_tokens", [0, 64])
def test_kernels_decode_mma_one_plan_serves_many_layers(split_tokens: int) -> None:
    """The second launch alone leaves its workspace as it found it, under any schedule."""
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=16, dtype="float16")
    plan = planned(
        build_tensors(Case(problem=problem, batch=Batch(kv_lens=(900, 100, 500)))),
        split_tokens=split_tokens,
        blocks=6,
    )
    first = run(plan)
    for seed in range(1, 6):
        DEVICE.reschedule(seed)
        assert bits(run(plan, slice(1, None))) == bits(first)
    DEVICE.reschedule(0)


def test_kernels_decode_mma_offsets_beyond_32_bits() -> None:
    """A pool of 2^31 elements and more, of which only the touched pages get memory."""
    page_size, head_dim = 256, 256
    page = 2 * page_size * head_dim
    num_pages = 2**31 // page + 3
    storage = np.zeros((num_pages, 2, page_size, 1, head_dim), np.float16)
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=head_dim, page_size=page_size, dtype="float16")
    small = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(300, 20)), interleaved=True))
    high = num_pages - 1 - np.arange(small.pool.num_pages, dtype=np.int32)
    storage[high] = small.pool.storage
    layout = replace(small.layout, num_pages=num_pages, block_table=high[small.layout.block_table])
    tensors = replace(small, pool=small.pool.with_storage(storage), layout=layout)
    assert int(layout.block_table.min()) * page >= 2**31
    backend = RawKernelMmaBackend(DEVICE)
    result = attend(backend, tensors)
    assert bits(result) == bits(attend(backend, small))
    assert_right(small, backend)


@pytest.mark.parametrize("cut", CUTS)
def test_kernels_decode_mma_shows_a_nan_among_the_keys(cut: dict[str, int]) -> None:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=4, dtype="float16")
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(140, 140)), placement="identity"))
    tensors.pool.k[20, 1, 1, 3] = np.nan  # sequence 0, token 81, KV head 1
    result = attend(RawKernelMmaBackend(DEVICE, **cut), tensors)
    assert np.isnan(result.out).all(axis=2).tolist() == [[False, False, True, True], [False] * 4]
    assert result.lse is not None
    assert np.isnan(result.lse).tolist() == [[False, False, True, True], [False] * 4]
    assert judge(tensors, result.out, result.lse, RawKernelMmaBackend.profile).passed


@pytest.mark.parametrize("split_tokens", [0, 64])
def test_kernels_decode_mma_touches_nothing_but_its_own(split_tokens: int) -> None:
    """Every access looked at: bounds, alignment, and bytes that nobody wrote."""
    device = CheckedDevice(checks=["memory", "init"])
    problem = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=16, page_size=5, dtype="bfloat16")
    batch = Batch(kv_lens=(0, 1, 64, 200, 65, 3), q_lens=(1, 2, 8, 7, 0, 8))
    for tail in ("minus-one", "int-max"):
        tensors = build_tensors(Case(problem=problem, batch=batch, poison="nan", tail=tail))
        for blocks in (1, 4, 60):
            assert_right(tensors, RawKernelMmaBackend(device, split_tokens=split_tokens, blocks=blocks))


def test_kernels_decode_mma_no_sequence_with_queries() -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=4, dtype="float16")
    case = Case(problem=problem, batch=Batch(kv_lens=(5, 9), q_lens=(0, 0)))
    assert attend(RawKernelMmaBackend(DEVICE), build_tensors(case)).out.shape == (0, 2, 16)


# --- shapes of instances ------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", SM_LIMITS)
def test_kernels_decode_mma_instances_fit_their_device(architecture: str) -> None:
    limits = architecture_limits(SM_LIMITS[architecture])
    found = [instance for instance in instances() if architecture in instance.architectures]
    names = ("PAB_HEAD_DIM", "PAB_DTYPE", "PAB_FEATURES", "PAB_E4M3", "PAB_KEY_LISTS", "PAB_TILE_ROWS")
    assert [tuple(one.defines.get(name, 0) for name in names) for one in found] == [
        (head_dim, dtype, *variant, 0)
        for head_dim in HEAD_DIMS
        for dtype in (1, 2)
        for variant in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 1), (1, 1, 1))
    ] + [(128, dtype, 1, 0, *rows) for dtype in (1, 2) for rows in itertools.product((0, 1), (1, 2, 3, 4))]
    for instance in found:
        plan, attention = instance.entries
        assert plan.name == "paged_decode_plan"
        assert attention.shared_bytes <= limits.shared_bytes_per_block
        resident = instance.defines["PAB_BLOCKS"]
        assert resident * (attention.shared_bytes + KIB) <= limits.shared_bytes_per_sm
        assert attention.threads == 32 * instance.defines["PAB_WARPS"]


def test_kernels_decode_mma_two_blocks_of_head_dim_128_on_hopper() -> None:
    limits = architecture_limits(SM_LIMITS["sm_90a"])
    shape = decode_shape(128, limits)
    assert shape == DecodeShape(warps=4, stages=3)
    assert shape.blocks_per_sm(128, limits) == 2


def test_kernels_decode_mma_refuses_a_device_too_small() -> None:
    limits = DeviceLimits(multiprocessors=1, shared_bytes_per_block=64 * KIB, shared_bytes_per_sm=64 * KIB)
    with pytest.raises(
        InvalidCase, match="head_dim = 256: needs more shared memory than a block has here, 65536"
    ):
        decode_shape(256, limits)


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["q", "keys"])
def test_kernels_decode_mma_refuses_unaligned_arrays(field: str) -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=4, dtype="bfloat16")
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(50, 7))))
    if field == "q":
        odd = replace(tensors, q=shifted(tensors.q))
    else:
        odd = replace(tensors, pool=tensors.pool.with_storage(shifted(tensors.pool.storage)))
    with pytest.raises(InvalidCase, match=rf"^address of {field} = \d+: must be a multiple of 16 bytes$"):
        attend(RawKernelMmaBackend(DEVICE), odd)


@pytest.mark.parametrize(("split_tokens", "words"), [(100, "multiple of the tile, 64"), (-64, "at least 0")])
def test_kernels_decode_mma_refuses_a_wrong_split(split_tokens: int, words: str) -> None:
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=16, page_size=4, dtype="bfloat16")
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(9,))))
    with pytest.raises(InvalidCase, match=f"split_tokens = {split_tokens}: must be .*{words}"):
        attend(RawKernelMmaBackend(DEVICE, split_tokens=split_tokens), tensors)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head_dim": 72}, "head_dim 72 is not a multiple of 16 up to 256"),
        ({"head_dim": 272}, "head_dim 272 is above 256"),
        ({"dtype": "float32"}, "no dtype float32"),
    ],
)
def test_kernels_decode_mma_says_what_it_cannot(change: dict[str, Any], words: str) -> None:
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=16, page_size=4, dtype="bfloat16")
    case = Case(problem=replace(problem, **change), batch=Batch(kv_lens=(9,)))
    with pytest.raises(Unsupported, match=f"^rawkernel-mma: {words}$"):
        attend(RawKernelMmaBackend(DEVICE), build_tensors(case))
