# SPDX-License-Identifier: Apache-2.0
"""How long the emulated device takes for our kernels.  Times are printed, never asserted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pabench.device.checked import CheckedDevice
from pabench.device.emulated import EmulatedDevice
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.append import AppendCase, build_append
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.scan import ScanAllocator
from pabench.subjects.backends.rawkernel import RawKernelBackend

Note = Callable[[str, int], None]


@pytest.fixture(scope="module")
def device() -> EmulatedDevice:
    return EmulatedDevice()


@pytest.fixture(scope="module")
def checked() -> CheckedDevice:
    return CheckedDevice()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_decode(benchmark: Any, per_unit: Note, device: EmulatedDevice, dtype: str) -> None:
    time_decode(benchmark, per_unit, device, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_decode_checked(benchmark: Any, per_unit: Note, checked: CheckedDevice, dtype: str) -> None:
    """All checks, no counters: at most 8 times as long as without."""
    time_decode(benchmark, per_unit, checked, dtype)


def time_decode(benchmark: Any, per_unit: Note, device: EmulatedDevice, dtype: str) -> None:
    problem = Problem(num_qo_heads=8, num_kv_heads=2, head_dim=128, page_size=16, dtype=dtype)
    case = Case(problem=problem, batch=Batch(kv_lens=(1000, 700, 400, 1948)))
    backend = RawKernelBackend(device)
    plan = backend.plan(build_tensors(case))
    backend.run(plan)
    benchmark.pedantic(backend.run, args=(plan,), rounds=7, iterations=1, warmup_rounds=1)
    per_unit("token x query head", sum(case.batch.kv_lens) * problem.num_qo_heads)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_decode_counted(benchmark: Any, per_unit: Note, dtype: str) -> None:
    """Counters only; to be read beside ``test_decode``."""
    problem = Problem(num_qo_heads=8, num_kv_heads=2, head_dim=128, page_size=16, dtype=dtype)
    case = Case(problem=problem, batch=Batch(kv_lens=(1000, 700, 400, 1948)))
    backend = RawKernelBackend(CheckedDevice(checks=(), count=True))
    plan = backend.plan(build_tensors(case))
    backend.run(plan)
    benchmark.pedantic(backend.run, args=(plan,), rounds=7, iterations=1, warmup_rounds=1)
    per_unit("token x query head", sum(case.batch.kv_lens) * problem.num_qo_heads)


def test_append(benchmark: Any, per_unit: Note, device: EmulatedDevice) -> None:
    problem = Problem(num_qo_heads=8, num_kv_heads=2, head_dim=128, page_size=16)
    slots = np.random.default_rng(0).permutation(256 * 16)[:2048]
    case = AppendCase(problem=problem, num_pages=256, slots=tuple(slots.tolist()))
    pool, keys, values, slot_mapping = build_append(case)
    backend = RawKernelBackend(device)
    benchmark.pedantic(
        backend.append, args=(pool, "float32", keys, values, slot_mapping), rounds=7, warmup_rounds=1
    )
    per_unit("token x KV head", len(case.slots) * problem.num_kv_heads)


def test_allocator_step(benchmark: Any, per_unit: Note, device: EmulatedDevice) -> None:
    """256 live sequences, each of which gets one token."""
    shape = PoolShape(num_pages=2**16, page_size=16, max_seqs=256, max_pages_per_seq=256)
    allocator = ScanAllocator(device, shape)
    for sequence in range(256):
        allocator.alloc(sequence, 1)
    step = (np.arange(256), 1)
    benchmark.pedantic(allocator.append_batch, args=step, rounds=20, warmup_rounds=2)
    per_unit("sequence", 256)
