# SPDX-License-Identifier: Apache-2.0
"""Counted against the closed forms of oracle/traffic.py, to the last byte, for the kernels of the project."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pabench.device.checked import CheckedDevice
from pabench.device.counters import Counters
from pabench.judge.traffic import decode_traffic
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.append import AppendCase, build_append
from pabench.subjects.backends.rawkernel import RawKernelBackend
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from tests.support.counting import counting_device

KEYS_A_TILE = 32


def decode(case: Case, *, device: CheckedDevice | None = None, num_splits: int = 1) -> Counters:
    device = device or counting_device()
    backend = RawKernelBackend(device, num_splits=num_splits)
    backend.run(backend.plan(build_tensors(case)))
    return device.counters["paged_decode_simple"]


@pytest.mark.parametrize("page_size", [1, 2, 3, 16, 64, 256])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)])
def test_counters_kernels_decode(page_size: int, dtype: str, heads: int, kv_heads: int) -> None:
    problem = Problem(
        num_qo_heads=heads, num_kv_heads=kv_heads, head_dim=64, page_size=page_size, dtype=dtype
    )
    kv_lens = (300, 0, 33, 1, 64)
    floor = decode_traffic(problem, kv_lens)
    counted = decode(Case(problem=problem, batch=Batch(kv_lens=kv_lens)))

    # the kernel reads the cache once for each query head of a group, no byte more
    assert counted.loaded_bytes("k", "v") == problem.group_size * floor.kv_bytes
    # rows of 64 elements are whole sectors, each read: memory delivers the closed form itself
    (cache,) = [buffer for buffer in counted.buffers if "k" in buffer.name.split("+")]
    assert cache.loaded_sectors * 32 == floor.kv_bytes
    # a warp looks pages up once for 32 keys, a lane a key; idle lanes look up the last page
    tiles = heads * sum(-(-length // KEYS_A_TILE) for length in kv_lens)
    assert counted.load_requests("block_table") == tiles
    assert counted.loaded_bytes("block_table") == tiles * 32 * 4
    assert counted.loaded_bytes("q") == floor.q_bytes
    assert counted.stored_bytes("out") == floor.out_bytes
    assert counted.stored_bytes("lse") == floor.lse_bytes

    totals = counted.totals()
    rows = heads * len(kv_lens)
    # a tile: 5 shuffles for the maximum, 2 syncs; a row: 5 shuffles for the sum, 1 sync
    assert totals.collectives == {"warp_sync": rows + 2 * tiles, "shuffle": 5 * (rows + tiles)}
    assert (totals.barriers, totals.atomics, totals.matrix_products) == (0, {}, {})
    assert totals.bank_conflicts == 0
    assert counted.totals(region="score").load_bytes == (
        problem.group_size * floor.kv_bytes // 2 + tiles * 32 * 4
    )
    assert counted.totals(region="output").load_bytes == problem.group_size * floor.kv_bytes // 2


@pytest.mark.parametrize("head_dim", [1, 5, 48, 128, 256])
def test_counters_kernels_decode_of_any_head_dim(head_dim: int) -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=head_dim, page_size=16, dtype="float16")
    kv_lens = (70, 31)
    floor = decode_traffic(problem, kv_lens)
    counted = decode(Case(problem=problem, batch=Batch(kv_lens=kv_lens)))
    assert counted.loaded_bytes("k", "v") == 2 * floor.kv_bytes
    (cache,) = [buffer for buffer in counted.buffers if "k" in buffer.name.split("+")]
    # rows that are not whole sectors touch a few bytes beside them
    assert cache.loaded_sectors * 32 >= floor.kv_bytes


def test_counters_kernels_decode_in_splits_reads_as_much() -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=64, page_size=16)
    case = Case(problem=problem, batch=Batch(kv_lens=(1000, 17)))
    device = counting_device()
    split = decode(case, device=device, num_splits=3)
    assert split.loaded_bytes("k", "v") == decode(case).loaded_bytes("k", "v")
    rows, merge = 2 * 2, device.counters["paged_decode_merge"]
    assert split.stored_bytes("partial_out") == rows * 3 * 64 * 4
    assert merge.distinct_loaded_sectors > 0
    assert merge.stored_bytes("out") == rows * 64 * 4


def test_counters_kernels_decode_is_the_same_in_two_runs() -> None:
    problem = Problem(num_qo_heads=8, num_kv_heads=2, head_dim=128, page_size=16, dtype="float16")
    case = Case(problem=problem, batch=Batch(kv_lens=(500, 77, 200)))
    texts = {
        decode(case, device=counting_device(seed=seed, workers=workers)).to_json()
        for seed, workers in ((0, 1), (0, 2), (5, 2), (6, 3))
    }
    assert len(texts) == 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("page_size", [1, 16, 256])
def test_counters_kernels_append(dtype: str, page_size: int) -> None:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=64, page_size=page_size, dtype=dtype)
    num_pages = 300 if page_size == 1 else 8
    slots = np.random.default_rng(0).permutation(num_pages * page_size)[:57].tolist()
    slots[3] = slots[40] = -1  # tokens that are not written
    case = AppendCase(problem=problem, num_pages=num_pages, slots=tuple(slots))
    pool, keys, values, slot_mapping = build_append(case)
    device = counting_device()
    RawKernelBackend(device).append(pool, dtype, keys, values, slot_mapping)
    counted = device.counters["kv_append"]
    written = 55 * problem.token_bytes
    assert counted.stored_bytes("k", "v") == written
    assert counted.distinct_stored_sectors * 32 == written
    assert counted.loaded_bytes("keys") + counted.loaded_bytes("values") == written
    assert counted.load_requests("slot_mapping") == 57
    totals = counted.totals()
    assert totals.store_bytes == written
    assert totals.store_sectors * 32 == written


def test_counters_kernels_are_counted_beside_all_checks() -> None:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=64, page_size=16)
    case = Case(problem=problem, batch=Batch(kv_lens=(100, 33)))
    device = CheckedDevice(count=True)
    assert decode(case, device=device).to_json() == decode(case).to_json()
    assert device.findings == []


def test_counters_kernels_example_of_the_documents_runs() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "emulated-device.md"
    (example,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    exec(compile(example, str(page), "exec"), {})


def test_counters_kernels_are_not_counted_unasked() -> None:
    device = CheckedDevice()
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=64, page_size=16)
    backend = RawKernelBackend(device)
    backend.run(backend.plan(build_tensors(Case(problem=problem, batch=Batch(kv_lens=(3,))))))
    assert (device.counters, device.last_counters) == ({}, None)


@pytest.mark.parametrize("page_size", [1, 16, 256])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_counters_kernels_of_the_tensor_core_kernel(page_size: int, dtype: str) -> None:
    problem = Problem(num_qo_heads=8, num_kv_heads=2, head_dim=64, page_size=page_size, dtype=dtype)
    kv_lens = (100, 33, 0, 64)
    device = counting_device()
    backend = RawKernelMmaBackend(device)
    backend.run(backend.plan(build_tensors(Case(problem=problem, batch=Batch(kv_lens=kv_lens)))))
    counted = device.counters["paged_decode"]

    # each key and value once for each KV head, whatever the group; a page once a token and KV head
    assert counted.loaded_bytes("k", "v") == decode_traffic(problem, kv_lens).kv_bytes
    assert counted.loaded_bytes("block_table") == 4 * sum(kv_lens) * problem.num_kv_heads
    # 16 tokens of a warp: head_dim / 16 steps for two halves of the keys, head_dim / 8 columns of the output
    slices = problem.num_kv_heads * sum(-(-length // 16) for length in kv_lens)
    shape = "m16n8k16.f16" if dtype == "float16" else "m16n8k16.bf16"
    assert counted.totals().matrix_products == {shape: slices * problem.head_dim // 4}


@pytest.mark.parametrize("kv_dtype", [None, "e4m3"])
@pytest.mark.parametrize("head_dim", [16, 48, 64, 80, 112, 128, 192])
def test_counters_kernels_of_the_tensor_core_kernel_have_no_bank_conflicts(
    head_dim: int, kv_dtype: str | None
) -> None:
    """Nor has the end of a piece, where the warps' outputs meet, in one pass or two unequal ones."""
    problem = Problem(
        num_qo_heads=8, num_kv_heads=2, head_dim=head_dim, page_size=16, dtype="float16", kv_dtype=kv_dtype
    )
    for q_lens in (None, (1, 8, 3, 2)):
        device = counting_device()
        backend = RawKernelMmaBackend(device, blocks=5)
        batch = Batch(kv_lens=(100, 33, 0, 64), q_lens=q_lens)
        backend.run(backend.plan(build_tensors(Case(problem=problem, batch=batch))))
        assert device.counters["paged_decode"].totals().bank_conflicts == 0
