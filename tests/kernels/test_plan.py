# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from pabench.device.base import KernelSource, Launch
from pabench.kernels.decode_simple import plan_decode, shared_bytes, split_count
from pabench.kernels.instance import WARPS, vector_width
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.dtypes import BFLOAT16, FLOAT16, FLOAT32, Array, DType
from pabench.resources import resource_dir
from tests.support.probe import DEVICE, KERNELS


def aligned(start: int) -> Array:
    """float16 memory that starts ``start`` bytes after a multiple of 64."""
    raw = np.zeros(1024, np.uint8)
    skip = (start - raw.ctypes.data) % 64
    return raw[skip : skip + 512].view(np.float16)


@pytest.mark.parametrize(
    ("head_dim", "dtype", "starts", "width"),
    [
        (128, FLOAT32, (0, 0), 4),
        (128, FLOAT16, (0, 16), 8),
        (64, BFLOAT16, (), 8),
        (80, FLOAT16, (0,), 8),
        (36, FLOAT16, (0,), 4),
        (36, FLOAT32, (0,), 4),
        (6, FLOAT32, (0,), 2),
        (6, FLOAT16, (0,), 2),
        (5, FLOAT32, (0,), 1),
        (1, BFLOAT16, (0,), 1),
        (128, FLOAT16, (0, 8), 4),
        (128, FLOAT16, (0, 4), 2),
        (128, FLOAT16, (2, 0), 1),
        (128, FLOAT32, (0, 4), 1),
        (128, FLOAT32, (0, 8), 2),
    ],
)
def test_kernels_plan_loads_as_wide_as_all_arrays_allow(
    head_dim: int, dtype: DType, starts: tuple[int, ...], width: int
) -> None:
    assert vector_width(head_dim, dtype, *(aligned(start) for start in starts)) == width


@pytest.mark.parametrize(("head_dim", "vec", "value_vec", "packs"), [(5, 1, 1, 1), (80, 8, 2, 2)])
def test_kernels_plan_reserves_the_size_of_the_struct(
    head_dim: int, vec: int, value_vec: int, packs: int
) -> None:
    dims = {"PAB_HEAD_DIM": head_dim, "PAB_HEAD_DIM_V": head_dim}
    defines = {**dims, "PAB_DTYPE": 1, "PAB_VEC": vec, "PAB_WARPS": WARPS}
    source = KernelSource(
        path=KERNELS / "sizes.cu",
        include_dir=resource_dir("kernels_cuda"),
        defines={name: str(value) for name, value in defines.items()},
    )
    out = np.zeros(3, np.uint32)
    DEVICE.load(source).launch(Launch(entry="sizes", grid=(1, 1, 1), block=(1, 1, 1), args=(out,)))
    assert out.tolist() == [shared_bytes(head_dim), value_vec, packs]


@pytest.mark.parametrize(
    ("kv_lens", "heads", "count"),
    [
        ((), 32, 1),
        ((0,), 32, 1),
        ((512,), 32, 1),
        ((513,), 32, 2),
        ((100_000,), 8, 32),
        ((100_000,), 64, 32),
        ((100_000,) * 8, 64, 4),
        ((100_000,) + (1,) * 31, 64, 1),
        ((1536,) + (1,) * 3, 32, 3),
    ],
)
def test_kernels_plan_splits_until_the_gpu_is_full(kv_lens: tuple[int, ...], heads: int, count: int) -> None:
    assert split_count(kv_lens, heads) == count


@pytest.mark.parametrize(("num_splits", "decode_blocks"), [(1, 6), (2, 11), (8, 42)])
def test_kernels_plan_covers_every_row_and_split(num_splits: int, decode_blocks: int) -> None:
    problem = Problem(num_qo_heads=7, num_kv_heads=1, head_dim=5, page_size=4)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(3, 0, 9))))
    plan = plan_decode(
        DEVICE,
        problem,
        q=tensors.q,
        pool=tensors.pool,
        block_table=tensors.layout.block_table,
        kv_lens=tensors.kv_lens,
        num_splits=num_splits,
    )
    decode, *merge = plan.launches
    assert (decode.grid, decode.block) == ((decode_blocks, 1, 1), (128, 1, 1))
    # a warp: 5 floats up to a multiple of 16 bytes, 32 tokens of 16 bytes
    assert decode.shared_bytes == 4 * (32 + 32 * 16)
    assert [launch.grid for launch in merge] == ([(6, 1, 1)] if num_splits > 1 else [])
    assert plan.out.tobytes() == b"\xff" * plan.out.nbytes
    assert plan.out.shape == (3, 7, 5)
    assert plan.lse.shape == (3, 7)
