# SPDX-License-Identifier: Apache-2.0
"""The table of instances is what the launch plans ask for: same macros, same block, same shared memory."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.device.base import DeviceLimits, KernelSource, Launch
from pabench.device.occupancy import SM_LIMITS
from pabench.kernels import alloc_scan, decode, fitted, page_copy, page_pool, prefill
from pabench.kernels.append import append_scales, append_to_sequences, append_tokens
from pabench.kernels.decode_simple import plan_decode
from pabench.kernels.gather import plan_gather
from pabench.kernels.instance import HEAD_DIMS, KernelEntry
from pabench.kernels.instances import kernel_instances
from pabench.kernels.key_lists import key_lists
from pabench.kernels.mask_bits import MaskBits
from pabench.kernels.merge_states import plan_merge
from pabench.kernels.row_formats import TABLE_HEAD_DIM, TILE_ROWS
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.dtypes import DTYPES, E4M3, DType
from pabench.problem.pool import KvPool, pool_parts, pool_shape
from pabench.problem.problem import Problem


class Recorder:
    """A device that keeps what is asked of it and runs nothing."""

    name, description, kernels = "recorder", "", Path("kernels")
    limits: DeviceLimits

    def __init__(self) -> None:
        self.sources: list[KernelSource] = []
        self.launches: list[Launch] = []

    def load(self, source: KernelSource) -> Recorder:
        self.sources.append(source)
        return self

    def launch(self, launch: Launch) -> None:
        self.launches.append(launch)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.zeros(shape, dtype)

    def to_device(self, array: Any) -> Any:
        return array

    def to_host(self, array: Any) -> Any:
        return array

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.zeros(shape, dtype)

    def synchronize(self) -> None:
        pass


KNOWN = {
    (one.file, *sorted((name, str(value)) for name, value in one.defines.items())): one.entries
    for one in kernel_instances()
}


def check(recorder: Recorder) -> None:
    """Every launch is an entry of the instance in the table."""
    keys = {(source.path.name, *sorted(source.defines.items())) for source in recorder.sources}
    entries = {entry.name: entry for key in keys for entry in KNOWN[key]}
    assert {launch.entry for launch in recorder.launches} == set(entries)
    for launch in recorder.launches:
        asked = KernelEntry(name=launch.entry, threads=launch.block[0], shared_bytes=launch.shared_bytes)
        # a launch says nothing of the turns inside
        assert asked == replace(entries[launch.entry], turn_tokens=0, turn_warps=0)


def shifted(shape: tuple[int, ...], dtype: DType, elements: int) -> Any:
    """An array that starts ``elements`` after a multiple of 256 bytes."""
    size = int(np.prod(shape))
    raw = np.zeros(size + 512, dtype.storage)
    start = -raw.ctypes.data % 256 // dtype.itemsize + elements
    return raw[start : start + size].reshape(shape)


def pool_of(problem: Problem, elements: int) -> KvPool:
    shape = (2, 3, 16, 2, problem.row_units("k"))
    return KvPool(storage=shifted(shape, problem.kv_storage, elements), kv_layout="NHD", interleaved=False)


def variants_of(plain: Problem) -> tuple[Problem, ...]:
    """Without and with features, over a cache like the queries and over one of e4m3."""
    small = replace(plain, kv_dtype="e4m3")
    return plain, replace(plain, window=3), small, replace(small, window=3)


@pytest.mark.parametrize("elements", [0, 1, 2, 4])
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_kernels_instances_hold_every_plan(head_dim: int, name: str, elements: int) -> None:
    dtype = DTYPES[name]
    plain = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=head_dim, page_size=16, dtype=name)
    for problem in variants_of(plain):
        decode = Recorder()
        plan = plan_decode(
            decode,  # type: ignore[arg-type]
            problem,
            q=shifted((1, 4, head_dim), dtype, 0),
            pool=pool_of(problem, elements),
            block_table=np.zeros((1, 3), np.int32),
            kv_lens=np.full(1, 40, np.int32),
            num_splits=2,
        )
        decode.launches += plan.launches
        check(decode)
    tokens = shifted((5, 2, head_dim), dtype, 0)
    slots, table = np.arange(5, dtype=np.int64), np.zeros((1, 3), np.int32)
    lengths, rows = np.full(1, 40, np.int32), np.array([0, 5], np.int32)
    for problem in (plain, replace(plain, kv_dtype="e4m3")):
        append = Recorder()
        to: dict[str, Any] = {"pool": pool_of(problem, elements), "keys": tokens, "values": tokens}
        to |= {"page_size": 16, "scales": append_scales(problem) if problem.kv_dtype else None}
        append_tokens(append, dtype, **to, slot_mapping=slots)  # type: ignore[arg-type]
        append_to_sequences(
            append,  # type: ignore[arg-type]
            dtype,
            **to,
            block_table=table,
            kv_lens=lengths,
            qo_indptr=rows,
        )
        check(append)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_90a", "sm_120"])
@pytest.mark.parametrize("name", fitted.DTYPES)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_kernels_instances_hold_every_tensor_core_plan(head_dim: int, name: str, architecture: str) -> None:
    dtype = DTYPES[name]
    plain = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=head_dim, page_size=16, dtype=name)
    rows = [replace(plain, kv_dtype=form) for form in TILE_ROWS] if head_dim == TABLE_HEAD_DIM else []
    for problem, listed in itertools.product((*variants_of(plain), *rows), (False, True)):
        recorder = Recorder()
        recorder.limits = fitted.architecture_limits(SM_LIMITS[architecture], multiprocessors=10)
        case = Case(problem=problem, batch=Batch(kv_lens=(40,)), masks=(("token-lists", ((3,),)),))
        plan = decode.plan_decode(
            recorder,  # type: ignore[arg-type]
            problem,
            q=shifted((1, 4, head_dim), dtype, 0),
            pool=pool_of(problem, 0),
            block_table=np.zeros((1, 3), np.int32),
            kv_lens=np.full(1, 40, np.int32),
            qo_indptr=np.array([0, 1], np.int32),
            lists=key_lists(recorder, case) if listed else None,  # type: ignore[arg-type]
        )
        recorder.launches += plan.launches
        check(recorder)
        assert plan.launches[1].grid[0] == 10 * int(recorder.sources[0].defines["PAB_BLOCKS"])


@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_90a", "sm_120"])
@pytest.mark.parametrize("name", fitted.DTYPES)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_kernels_instances_hold_every_prefill_plan(head_dim: int, name: str, architecture: str) -> None:
    plain = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=head_dim, page_size=16, dtype=name)
    for problem in variants_of(plain):
        for queries in (20, 40):
            recorder = Recorder()
            recorder.limits = fitted.architecture_limits(SM_LIMITS[architecture])
            plan = prefill.plan_prefill(
                recorder,  # type: ignore[arg-type]
                problem,
                q=shifted((queries, 4, head_dim), DTYPES[name], 0),
                pool=pool_of(problem, 0),
                block_table=np.zeros((1, 3), np.int32),
                kv_lens=np.full(1, 40, np.int32),
                qo_indptr=np.array([0, queries], np.int32),
            )
            recorder.launches += plan.launches
            check(recorder)
            defines = recorder.sources[0].defines
            rows = 16 * int(defines["PAB_WARPS"]) * int(defines["PAB_ROW_TILES"])
            assert plan.launches[1].grid[0] == 2 * (2 * queries // rows + 1)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_90a", "sm_120"])
@pytest.mark.parametrize("name", fitted.DTYPES)
def test_kernels_instances_hold_every_prefill_plan_with_masks(name: str, architecture: str) -> None:
    head_dim = prefill.MASK_HEAD_DIM
    plain = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=head_dim, page_size=16, dtype=name)
    for problem in variants_of(plain):
        for queries in (20, 40):
            recorder = Recorder()
            recorder.limits = fitted.architecture_limits(SM_LIMITS[architecture])
            plan = prefill.plan_prefill(
                recorder,  # type: ignore[arg-type]
                problem,
                q=shifted((queries, 4, head_dim), DTYPES[name], 0),
                pool=pool_of(problem, 0),
                block_table=np.zeros((1, 3), np.int32),
                kv_lens=np.full(1, 40, np.int32),
                qo_indptr=np.array([0, queries], np.int32),
                mask=MaskBits(
                    words=np.zeros((queries, 3), np.uint32),
                    words_per_row=3,
                    row_keys=np.zeros(queries, np.int32),
                ),
            )
            recorder.launches += plan.launches
            check(recorder)
            listing, ordering, attention = plan.launches
            assert listing.grid[0] * 2 == attention.grid[0]
            # a tile of 64 keys is two words, of which the last has one
            assert listing.args[-3].shape == (listing.grid[0], 2, prefill.LIVE_WORDS)
            assert (listing.args[-1], ordering.args[-1]) == (1, 0)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_90a", "sm_120"])
@pytest.mark.parametrize("name", fitted.DTYPES)
@pytest.mark.parametrize("dims", prefill.APART_DIMS)
def test_kernels_instances_hold_every_prefill_plan_apart(
    dims: tuple[int, int], name: str, architecture: str
) -> None:
    head_dim, value_dim = dims
    plain = Problem(
        num_qo_heads=4, num_kv_heads=2, head_dim=head_dim, head_dim_v=value_dim, page_size=16, dtype=name
    )
    for problem in variants_of(plain):
        for queries in (20, 40):
            recorder = Recorder()
            recorder.limits = fitted.architecture_limits(SM_LIMITS[architecture])
            shape = pool_shape(problem, 3, kv_layout="NHD", interleaved=False)
            storage = shifted(shape, problem.kv_storage, 0)
            plan = prefill.plan_prefill(
                recorder,  # type: ignore[arg-type]
                problem,
                q=shifted((queries, 4, head_dim), DTYPES[name], 0),
                pool=KvPool(storage=storage, kv_layout="NHD", interleaved=False, parts=pool_parts(problem)),
                block_table=np.zeros((1, 3), np.int32),
                kv_lens=np.full(1, 40, np.int32),
                qo_indptr=np.array([0, queries], np.int32),
            )
            recorder.launches += plan.launches
            check(recorder)
            assert plan.out.shape == (queries, 4, value_dim)
            assert recorder.sources[0].defines["PAB_HEAD_DIM_V"] == str(value_dim)


@pytest.mark.parametrize("group_sizes", [(), (16, 4)])
@pytest.mark.parametrize("max_seqs", [1, 32, 33, 300, 1024, 5000])
def test_kernels_instances_hold_every_allocator(max_seqs: int, group_sizes: tuple[int, ...]) -> None:
    recorder = Recorder()
    state = alloc_scan.new_state(
        recorder,  # type: ignore[arg-type]
        num_pages=8,
        page_size=16,
        max_seqs=max_seqs,
        max_pages_per_seq=2,
        group_sizes=group_sizes,
    )
    request = np.zeros(state.lengths.shape[0], np.int32)
    alloc_scan.extend(state, request, request, np.zeros(1, np.int64))
    alloc_scan.drop(state, request, request, alloc_scan.END)
    alloc_scan.fork(state, request, request)
    alloc_scan.reset(state)
    alloc_scan.begin_step(state)
    check(recorder)


@pytest.mark.parametrize("kind", page_pool.KINDS)
@pytest.mark.parametrize("max_seqs", [1, 129])
def test_kernels_instances_hold_every_pool(kind: str, max_seqs: int) -> None:
    recorder = Recorder()
    pool = page_pool.new_pool(recorder, kind, 300)  # type: ignore[arg-type]
    request = np.zeros(max_seqs, np.int32)
    tables = request, np.zeros((max_seqs, 2), np.int32)
    wide = request.astype(np.int64)
    page_pool.extend(pool, tables, (request, request, wide), wide, request, 16)
    page_pool.free(pool, tables, request, request, 16)
    stamps = page_pool.new_stamps(pool, np.array([], np.int64))
    page_pool.batch(pool, stamps, request, request)
    page_pool.churn(pool, stamps, blocks=2, threads=128, rounds=1, most=2)
    check(recorder)


@pytest.mark.parametrize("elements", [0, 1, 2, 4])
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_kernels_instances_hold_every_copy(name: str, elements: int) -> None:
    recorder = Recorder()
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=64, page_size=16, dtype=name)
    copies = np.zeros((3, 3), np.int32)
    page_copy.copy_pages(
        recorder,  # type: ignore[arg-type]
        [pool_of(problem, elements)],
        copies,
        np.zeros(1, np.int64),
    )
    check(recorder)


@pytest.mark.parametrize("elements", [0, 1, 2, 4])
@pytest.mark.parametrize("name", DTYPES)
def test_kernels_instances_hold_every_gather_and_merge(name: str, elements: int) -> None:
    dtype, one = DTYPES[name], np.zeros(1, np.int32)
    for head_dim, stored in ((64, dtype), (80, E4M3), (5, E4M3)):
        problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=head_dim, page_size=16, dtype=name)
        if stored is E4M3:
            problem = replace(problem, kv_dtype="e4m3")
        pool = pool_of(problem, elements)
        for dense in {stored, dtype}:
            recorder = Recorder()
            rows = np.zeros((3, 2, head_dim), dense.storage)
            recorder.launches += plan_gather(
                recorder,  # type: ignore[arg-type]
                stored=stored,
                dense=dense,
                caches=(pool.k, pool.v),
                strides=pool.element_strides,
                block_table=one[None],
                kv_lens=one,
                indptr=np.zeros(2, np.int32),
                page_size=16,
                targets=(rows, rows),
                scales=None if dense is stored else append_scales(problem),
            )[1]
            check(recorder)
        recorder = Recorder()
        states = [(shifted((3, 2, head_dim), dtype, elements), np.zeros((3, 2), np.float32))]
        plan = plan_merge(recorder, dtype, states=states, rows=one[None], num_rows=1)  # type: ignore[arg-type]
        recorder.launches += plan.launches
        check(recorder)
