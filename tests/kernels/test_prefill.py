# SPDX-License-Identifier: Apache-2.0
"""The tensor-core kernel for many query tokens: right, and each row's bits its own."""

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
from pabench.errors import InvalidCase
from pabench.judge.reference import truth
from pabench.judge.traffic import attention_flops
from pabench.judge.verdict import judge
from pabench.kernels.features import FEATURED
from pabench.kernels.fitted import architecture_limits
from pabench.kernels.instance import HEAD_DIMS
from pabench.kernels.prefill import PREFILL, PrefillShape, instances, plan_prefill, prefill_shape
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.dtypes import decode
from pabench.problem.tensors import Tensors
from pabench.strategies import cases, long_prefill_batches, prefill_batches
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from tests.support.counting import counting_device
from tests.support.kernel_support import bits, shifted
from tests.support.prefill_support import FEW, MANY, PROFILE, WIDE, assert_right, planned, run
from tests.support.probe import DEVICE

KIB = 1024
FEATURES = ("soft-cap", "window", "alibi", "sinks", "fp8-kv", "non-causal")
SAME = settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def part(tensors: Tensors, sequence: int, first: int = 0, end: int | None = None) -> Tensors:
    """Query tokens ``first`` up to ``end`` of a sequence, with the keys up to the last of them."""
    batch = tensors.case.batch
    queries, kv_len = batch.query_lens[sequence], batch.kv_lens[sequence]
    end = queries if end is None else end
    start = int(tensors.qo_indptr[sequence])
    chunk = Batch(kv_lens=(max(0, kv_len - (queries - end)),), q_lens=(end - first,))
    table = np.ascontiguousarray(tensors.layout.block_table[sequence : sequence + 1])
    return replace(
        tensors,
        case=replace(tensors.case, batch=chunk),
        q=np.ascontiguousarray(tensors.q[start + first : start + end]),
        layout=replace(tensors.layout, block_table=table),
        kv_lens=np.array(chunk.kv_lens, np.int32),
        qo_indptr=chunk.qo_indptr,
    )


# --- right --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_dim", [*HEAD_DIMS, 48])
def test_kernels_prefill_right_for_every_head_dim(head_dim: int) -> None:
    dtype = ("bfloat16", "float16")[head_dim // 16 % 2]
    problem = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=head_dim, page_size=7, dtype=dtype)
    batch = Batch(kv_lens=(0, 1, 15, 64, 65, 200, 5, 70, 0), q_lens=(2, 1, 15, 64, 30, 40, 9, 1, 5))
    tensors = build_tensors(Case(problem=problem, batch=batch, poison="nan", family="ascending"))
    rows = (1, 128)[head_dim // 16 % 2]
    result = run(planned(tensors, shape=prefill_shape(head_dim, DEVICE.limits, rows=rows)))
    assert_right(tensors, result)
    assert not decode(result.out, problem.storage)[[0, 1, -1]].any()
    assert result.lse is not None
    assert (result.lse[[0, 1, -1]] == -np.inf).all()


@pytest.mark.parametrize("group", [*range(1, 10), 16, 40, 80])
def test_kernels_prefill_right_for_every_group_size(group: int) -> None:
    problem = Problem(num_qo_heads=2 * group, num_kv_heads=2, head_dim=16, page_size=4, dtype="float16")
    batch = Batch(kv_lens=(9, 70, 30), q_lens=(13, 20, 9))
    tensors = build_tensors(Case(problem=problem, batch=batch, family="spotlight"))
    assert_right(tensors, run(planned(tensors)))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("page_size", [1, 3, 64, 1000])
def test_kernels_prefill_right_with_and_without_causal_mask(causal: bool, page_size: int) -> None:
    problem = Problem(
        num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=page_size, dtype="bfloat16", causal=causal
    )
    batch = Batch(kv_lens=(3, 66, 0, 129, 63), q_lens=(18, 66, 20, 12, 64))
    for layout in ("NHD", "HND"):
        case = Case(problem=problem, batch=batch, poison="inf", kv_layout=layout, interleaved=layout == "HND")
        tensors = build_tensors(case)
        assert_right(tensors, run(planned(tensors)))


@SAME
@given(
    case=cases(dtypes=["bfloat16"], head_dims=[16, 80], batch=prefill_batches, features=FEATURES),
    shape=st.sampled_from([FEW, MANY, WIDE]),
)
def test_kernels_prefill_agrees_with_the_simple_kernel_property(case: Case, shape: PrefillShape) -> None:
    """Two right kernels differ by no more than both bounds together."""
    tensors = build_tensors(case)
    simple = RawKernelBackend(DEVICE)
    results = [attend(simple, tensors), run(planned(tensors, shape=shape))]
    bounds = [truth(tensors, profile) for profile in (simple.profile, PROFILE)]
    outs = [decode(result.out, case.problem.storage).astype(np.float64) for result in results]
    assert (np.abs(outs[0] - outs[1]) <= np.add(*(np.asarray(bound.out_bound) for bound in bounds))).all()
    lses = [np.asarray(result.lse, np.float64) for result in results]
    finite = np.isfinite(lses[0])
    assert (finite == np.isfinite(lses[1])).all()
    allowed = np.add(*(np.asarray(bound.lse_bound) for bound in bounds))
    assert (np.abs(lses[0][finite] - lses[1][finite]) <= allowed[finite]).all()


def test_kernels_prefill_right_for_long_sequences() -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=16, dtype="float16")
    for q_lens in ((70, 9), (1, 12)):
        tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(3000, 1500), q_lens=q_lens)))
        assert_right(tensors, run(planned(tensors)))


def test_kernels_prefill_offsets_beyond_32_bits() -> None:
    """A pool of 2^31 elements and more, of which only the touched pages get memory."""
    page_size, head_dim = 256, 256
    page = 2 * page_size * head_dim
    num_pages = 2**31 // page + 3
    storage = np.zeros((num_pages, 2, page_size, 1, head_dim), np.float16)
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=head_dim, page_size=page_size, dtype="float16")
    batch = Batch(kv_lens=(300, 20), q_lens=(12, 20))
    small = build_tensors(Case(problem=problem, batch=batch, interleaved=True))
    high = num_pages - 1 - np.arange(small.pool.num_pages, dtype=np.int32)
    storage[high] = small.pool.storage
    layout = replace(small.layout, num_pages=num_pages, block_table=high[small.layout.block_table])
    tensors = replace(small, pool=small.pool.with_storage(storage), layout=layout)
    assert int(layout.block_table.min()) * page >= 2**31
    result = run(planned(tensors))
    assert bits(result) == bits(run(planned(small)))
    assert_right(small, result)


def test_kernels_prefill_shows_a_nan_among_the_keys_to_rows_that_see_it() -> None:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=4, dtype="float16")
    batch = Batch(kv_lens=(140, 140), q_lens=(80, 80))
    tensors = build_tensors(Case(problem=problem, batch=batch, placement="identity"))
    tensors.pool.k[25, 1, 1, 3] = np.nan  # sequence 0, token 101, KV head 1
    result = run(planned(tensors))
    expected = np.zeros((160, 4), bool)
    expected[101 - 60 : 80, 2:] = True
    assert result.lse is not None
    assert (np.isnan(result.lse) == expected).all()
    assert (np.isnan(result.out) == expected[:, :, None]).all()
    assert judge(tensors, result.out, result.lse, PROFILE).passed


@pytest.mark.parametrize("causal", [True, False])
def test_kernels_prefill_touches_nothing_but_its_own(causal: bool) -> None:
    """Every access and every meeting looked at."""
    device = CheckedDevice()
    problem = Problem(
        num_qo_heads=6, num_kv_heads=2, head_dim=16, page_size=5, dtype="bfloat16", causal=causal
    )
    batch = Batch(kv_lens=(0, 1, 64, 200, 65, 3), q_lens=(1, 2, 22, 43, 0, 18))
    for tail, shape in (("minus-one", FEW), ("int-max", MANY), ("minus-one", WIDE)):
        tensors = build_tensors(Case(problem=problem, batch=batch, poison="nan", tail=tail))
        assert_right(tensors, run(planned(tensors, device, shape=shape)))
    assert device.findings == []


def test_kernels_prefill_no_sequence_with_queries() -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=4, dtype="float16")
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(5, 9), q_lens=(0, 0))))
    assert run(planned(tensors)).out.shape == (0, 2, 16)


# --- a row's bits are its own -------------------------------------------------------------------------------

CASES = cases(
    dtypes=["float16"],
    head_dims=[16],
    batch=lambda page_size: prefill_batches(page_size) | long_prefill_batches(page_size),
    families=["normal", "ascending"],
    features=FEATURES,
)


@SAME
@given(case=CASES, shape=st.sampled_from([FEW, MANY, WIDE]))
def test_kernels_prefill_does_not_see_the_batch_property(case: Case, shape: PrefillShape) -> None:
    """Bit for bit: a sequence alone, in blocks of any size, gives what it gives in the batch."""
    tensors = build_tensors(case)
    together = run(planned(tensors))
    for sequence, queries in enumerate(case.batch.query_lens):
        if queries:
            first = int(tensors.qo_indptr[sequence])
            alone = run(planned(part(tensors, sequence), shape=shape))
            assert bits(alone) == bits(together, slice(first, first + queries))


@SAME
@given(data=st.data())
def test_kernels_prefill_in_two_chunks_is_one_prefill_property(data: st.DataObject) -> None:
    """Bit for bit, wherever a causal prompt is cut."""
    tensors = build_tensors(data.draw(CASES.filter(lambda case: case.problem.causal)))
    together = run(planned(tensors))
    for sequence, queries in enumerate(tensors.case.batch.query_lens):
        start, cut = int(tensors.qo_indptr[sequence]), data.draw(st.integers(0, queries))
        for first, end in ((0, cut), (cut, queries)):
            if end > first:
                chunk = run(planned(part(tensors, sequence, first, end)))
                assert bits(chunk) == bits(together, slice(start + first, start + end))


@pytest.mark.parametrize(
    "change",
    [
        {"window": 200},
        {"alibi_slopes": (0.0,) * 4},
        {"soft_cap": None, "sinks": (-1e6,) * 4},
    ],
)
def test_kernels_prefill_features_that_change_nothing_change_no_bit(change: dict[str, Any]) -> None:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=4, dtype="float16")
    batch = Batch(kv_lens=(200, 70), q_lens=(70, 70))
    tensors = build_tensors(Case(problem=problem, batch=batch))
    case = replace(tensors.case, problem=replace(problem, **change))
    assert bits(run(planned(replace(tensors, case=case)))) == bits(run(planned(tensors)))


@pytest.mark.parametrize("window", [1, 50, 64, 65, 128])
@pytest.mark.parametrize("causal", [True, False])
def test_kernels_prefill_right_with_windows_at_tile_edges(window: int, causal: bool) -> None:
    problem = Problem(
        num_qo_heads=4,
        num_kv_heads=2,
        head_dim=16,
        page_size=4,
        dtype="float16",
        window=window,
        causal=causal,
    )
    batch = Batch(kv_lens=(330, 64, 3), q_lens=(150, 64, 10))
    for family in ("window-edge", "ascending"):
        tensors = build_tensors(Case(problem=problem, batch=batch, family=family, poison="nan"))
        assert_right(tensors, run(planned(tensors)))


# --- planned on the device ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("head_dim", "kv_dtype"), [(16, None), (80, None), (128, None), (96, "e4m3")])
def test_kernels_prefill_no_bit_depends_on_the_rows_of_a_warp(head_dim: int, kv_dtype: str | None) -> None:
    """Nor on those of a block: a row is summed in one place, in the order of its keys."""
    problem = Problem(
        num_qo_heads=6, num_kv_heads=2, head_dim=head_dim, page_size=5, dtype="bfloat16", kv_dtype=kv_dtype
    )
    batch = Batch(kv_lens=(201, 63, 130, 300, 0, 90), q_lens=(200, 63, 9, 70, 3, 0))
    for more in ({}, {"window": 50, "soft_cap": 20.0, "sinks": (1.0,) * 6}, {"causal": False}):
        case = Case(problem=replace(problem, **more), batch=batch, family="ascending", poison="nan")
        tensors = build_tensors(case)
        results = [run(planned(tensors, shape=shape)) for shape in (FEW, MANY, WIDE)]
        assert_right(tensors, results[0])
        assert bits(results[0]) == bits(results[1]) == bits(results[2])


def test_kernels_prefill_replays_after_lengths_change_in_place() -> None:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=3, dtype="float16")
    full = Batch(kv_lens=(300, 30, 64, 150), q_lens=(40, 9, 64, 30))
    tensors = build_tensors(Case(problem=problem, batch=full))
    plan = planned(tensors)
    run(plan)
    others = (
        Batch(kv_lens=(1, 3, 0, 150), q_lens=(143, 0, 0, 0)),
        Batch(kv_lens=(299, 0, 63, 1), q_lens=(1, 1, 140, 1)),
        Batch(kv_lens=(0, 0, 0, 0), q_lens=(0, 0, 0, 143)),
        full,
    )
    for batch in others:
        tensors.kv_lens[...] = batch.kv_lens
        tensors.qo_indptr[...] = batch.qo_indptr
        again = run(plan)
        assert bits(again) == bits(run(planned(tensors)))
        assert_right(replace(tensors, case=replace(tensors.case, batch=batch)), again)


def test_kernels_prefill_one_plan_serves_many_layers() -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=16, dtype="float16")
    batch = Batch(kv_lens=(200, 100), q_lens=(70, 100))
    plan = planned(build_tensors(Case(problem=problem, batch=batch)))
    first = run(plan)
    for seed in range(1, 6):
        DEVICE.reschedule(seed)
        assert bits(run(plan, slice(1, None))) == bits(first)
    DEVICE.reschedule(0)


@pytest.mark.parametrize("num_seqs", [1, 7, 1500])
def test_kernels_prefill_begins_blocks_with_many_keys_first(num_seqs: int) -> None:
    rng = np.random.default_rng(num_seqs)
    kv_lens = rng.integers(0, 900 if num_seqs < 10 else 100, num_seqs)
    q_lens = rng.integers(0, 300 if num_seqs < 10 else 10, num_seqs)
    batch = Batch(kv_lens=tuple(map(int, kv_lens)), q_lens=tuple(map(int, q_lens)))
    problem = Problem(num_qo_heads=3, num_kv_heads=1, head_dim=16, page_size=16, dtype="float16")
    tensors = build_tensors(Case(problem=problem, batch=batch))
    plan = planned(tensors, shape=FEW)
    plan.module.launch(plan.launches[0])
    starts, order = plan.launches[0].args[2:4]
    expected = {
        (sequence, first)
        for sequence, queries in enumerate(batch.query_lens)
        for first in range(0, queries * problem.group_size, FEW.rows)
    }
    count = int(starts[num_seqs])
    assert count == len(expected) <= plan.launches[1].grid[0]
    assert {(int(sequence), int(first)) for sequence, first in order[:count]} == expected

    def tiles(sequence: int, first: int) -> int:
        queries, kv_len = batch.query_lens[sequence], batch.kv_lens[sequence]
        last = min(first + FEW.rows, queries * problem.group_size) - 1
        return max(0, kv_len - queries + last // problem.group_size + 1) // FEW.tile_tokens

    costs = [tiles(int(sequence), int(first)) for sequence, first in order[:count]]
    # exact up to 16 tiles, then in steps of an eighth of an octave
    assert all(later <= earlier + earlier // 8 for earlier, later in itertools.pairwise(costs))
    assert costs[0] == max(costs)


# --- counted ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kernels_prefill_counted_against_closed_forms() -> None:
    """A whole prompt of 4,096: products, bytes of the cache, look-ups, conflicts."""
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=16, dtype="bfloat16")
    length = 4096
    batch = Batch(kv_lens=(length,), q_lens=(length,))
    tensors = build_tensors(Case(problem=problem, batch=batch))
    device = counting_device()
    plan = planned(tensors, device)
    for launch in plan.launches:
        plan.module.launch(launch)
    counted = device.counters[PREFILL]
    totals = counted.totals()

    flops_of_one = 2 * 16 * 8 * 16
    products = totals.matrix_products["m16n8k16.bf16"]
    assert 1.0 <= products * flops_of_one / attention_flops(problem, batch) <= 1.10

    # a block of 128 packed rows is 64 tokens of two heads; it reads up to what its last row sees
    tokens = sum(range(64, length + 1, 64))
    assert counted.loaded_bytes("k", "v") == tokens * problem.token_bytes
    assert counted.loaded_bytes("block_table") == 4 * tokens
    rows = length * problem.num_qo_heads * problem.head_dim * 2
    assert counted.loaded_bytes("q") == counted.stored_bytes("out") == rows
    assert counted.stored_bytes("lse") == length * problem.num_qo_heads * 4
    assert totals.bank_conflicts == 0


def test_kernels_prefill_counted_reads_of_a_window() -> None:
    """Each block reads from the first key of its first row to the last of its last."""
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=3, dtype="bfloat16", window=70)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(700,), q_lens=(300,))))
    device = counting_device()
    plan = planned(tensors, device, shape=MANY)
    for launch in plan.launches:
        plan.module.launch(launch)
    counted = device.counters[PREFILL]
    tokens = sum(min(first + 64, 300) - first + 69 for first in range(0, 300, 64))
    assert counted.loaded_bytes("k", "v") == tokens * problem.token_bytes
    assert counted.loaded_bytes("block_table") == 4 * tokens
    assert counted.totals().bank_conflicts == 0


@pytest.mark.parametrize(
    ("head_dim", "kv_dtype"), [(80, None), (128, None), (256, None), (64, "e4m3"), (80, "e4m3")]
)
def test_kernels_prefill_counted_without_bank_conflicts(head_dim: int, kv_dtype: str | None) -> None:
    problem = Problem(
        num_qo_heads=2, num_kv_heads=1, head_dim=head_dim, page_size=1, dtype="float16", kv_dtype=kv_dtype
    )
    batch = Batch(kv_lens=(150, 40), q_lens=(30, 20))
    device = counting_device()
    for shape in (None,) if head_dim > 128 else (None, WIDE):
        device.counters.clear()
        plan = planned(build_tensors(Case(problem=problem, batch=batch)), device, shape=shape)
        for launch in plan.launches:
            plan.module.launch(launch)
        counted = device.counters[PREFILL]
        assert counted.totals().bank_conflicts == 0
        assert counted.loaded_bytes("k", "v") == (150 + 40) * problem.token_bytes


# --- shapes of instances ------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", SM_LIMITS)
def test_kernels_prefill_instances_fit_their_device(architecture: str) -> None:
    limits = architecture_limits(SM_LIMITS[architecture])
    found = [instance for instance in instances() if architecture in instance.architectures]
    assert {(one.defines["PAB_HEAD_DIM"], one.defines["PAB_DTYPE"]) for one in found} == {
        (head_dim, dtype) for head_dim in HEAD_DIMS for dtype in (1, 2)
    }
    tiles: dict[tuple[int, int | None], set[int]] = {}
    for instance in found:
        _, attention = instance.entries
        assert attention.shared_bytes <= limits.shared_bytes_per_block
        assert instance.defines["PAB_BLOCKS"] * (attention.shared_bytes + KIB) <= limits.shared_bytes_per_sm
        assert attention.threads == 32 * instance.defines["PAB_WARPS"]
        dims = instance.defines["PAB_HEAD_DIM"], instance.defines.get("PAB_HEAD_DIM_V")
        assert instance.defines.get("PAB_MASKS", 0) <= (instance.defines["PAB_ROW_TILES"] == 1)
        tiles.setdefault(dims, set()).add(instance.defines["PAB_TILE"])
    # else the bits of a row would depend on the batch
    assert all(len(of_one) == 1 for of_one in tiles.values())


def test_kernels_prefill_takes_64_rows_where_128_do_not_fit_or_are_not_there() -> None:
    hopper, small = (architecture_limits(SM_LIMITS[name]) for name in ("sm_90a", "sm_120"))
    assert prefill_shape(128, hopper, rows=64) == FEW
    assert prefill_shape(128, hopper, rows=65) == WIDE
    assert prefill_shape(128, hopper, rows=65, variant=FEATURED) == MANY
    assert FEW.blocks_per_sm(128, hopper) == WIDE.blocks_per_sm(128, hopper) == 2
    assert prefill_shape(256, small, rows=500).rows == 64


def test_kernels_prefill_refuses_a_device_too_small() -> None:
    limits = DeviceLimits(multiprocessors=1, shared_bytes_per_block=64 * KIB, shared_bytes_per_sm=64 * KIB)
    words = "head_dim = 256: needs more shared memory than a block has here, 65536"
    with pytest.raises(InvalidCase, match=words):
        prefill_shape(256, limits, rows=1)


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["q", "keys"])
def test_kernels_prefill_refuses_unaligned_arrays(field: str) -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=4, dtype="bfloat16")
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(50, 7), q_lens=(9, 9))))
    if field == "q":
        odd = replace(tensors, q=shifted(tensors.q))
    else:
        odd = replace(tensors, pool=tensors.pool.with_storage(shifted(tensors.pool.storage)))
    with pytest.raises(InvalidCase, match=rf"^address of {field} = \d+: must be a multiple of 16 bytes$"):
        attend(RawKernelMmaBackend(DEVICE), odd)


def test_kernels_prefill_refuses_more_rows_than_32_bits_number() -> None:
    problem = Problem(num_qo_heads=2**16, num_kv_heads=1, head_dim=16, page_size=4, dtype="bfloat16")
    single = replace(problem, num_qo_heads=1)
    tensors = build_tensors(Case(problem=single, batch=Batch(kv_lens=(50,), q_lens=(9,))))
    with pytest.raises(
        InvalidCase, match=r"^query tokens x heads of a group = 2147483648: must be below 2\^31$"
    ):
        plan_prefill(
            DEVICE,
            problem,
            q=np.broadcast_to(np.uint16(0), (2**15, 2**16, 16)),
            pool=tensors.pool,
            block_table=tensors.layout.block_table,
            kv_lens=tensors.kv_lens,
            qo_indptr=tensors.qo_indptr,
        )
