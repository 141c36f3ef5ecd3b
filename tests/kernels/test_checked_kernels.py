# SPDX-License-Identifier: Apache-2.0
"""Our kernels on the checked device: nothing is found, and the bits are those of the fast mode."""

from __future__ import annotations

import numpy as np
import pytest

from pabench.device.checked import CheckedDevice
from pabench.device.emulated import EmulatedDevice
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.append import AppendCase, build_append
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.scan import ScanAllocator
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.rawkernel import RawKernelBackend


@pytest.mark.parametrize(("seed", "num_splits"), [(0, 1), (7, 3)])
@pytest.mark.parametrize(
    ("dtype", "head_dim", "kv_lens"),
    [("float32", 64, (1, 33, 0, 300)), ("float16", 65, (40, 17)), ("bfloat16", 128, (700,))],
)
def test_checked_kernels_decode(
    dtype: str, head_dim: int, kv_lens: tuple[int, ...], seed: int, num_splits: int
) -> None:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=head_dim, page_size=8, dtype=dtype)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=kv_lens)))
    fast, checked = (
        attend(RawKernelBackend(device, num_splits=num_splits), tensors)
        for device in (EmulatedDevice(seed=seed), CheckedDevice(seed=seed))
    )
    np.testing.assert_array_equal(fast.out, checked.out)
    np.testing.assert_array_equal(fast.lse, checked.lse)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_checked_kernels_append(dtype: str) -> None:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=40, page_size=16, dtype=dtype)
    slots = np.random.default_rng(0).permutation(8 * 16)[:70]
    case = AppendCase(problem=problem, num_pages=8, slots=tuple(slots.tolist()))
    pool, keys, values, slot_mapping = build_append(case)
    RawKernelBackend(CheckedDevice()).append(pool, dtype, keys, values, slot_mapping)


def test_checked_kernels_allocate() -> None:
    shape = PoolShape(num_pages=64, page_size=8, max_seqs=70, max_pages_per_seq=16)
    allocator = ScanAllocator(CheckedDevice(), shape)
    for sequence, tokens in ((0, 100), (69, 3), (5, 0), (33, 30)):
        allocator.alloc(sequence, tokens)
    allocator.append_batch([0, 5, 33], [1, 0, 20])
    allocator.free([0, 5])
    for sequence in range(40, 44):
        allocator.alloc(sequence, 9)
    allocator.append_batch(range(40, 44), 9)
