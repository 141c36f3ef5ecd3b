# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pabench.errors import InvalidCase
from pabench.judge.gather import gather_tokens, to_float64
from pabench.problem import Batch, Case, KvPool, PageLayout, Problem, Tensors, build_tensors
from pabench.problem.dtypes import BFLOAT16, FLOAT16, Array, DType, decode
from pabench.problem.pool import KV_LAYOUTS, pool_shape


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16])
def test_gather_widens_every_16_bit_pattern_exactly(dtype: DType) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    kind = dtype
    np.testing.assert_array_equal(
        to_float64(bits.view(kind.storage), kind), decode(bits.view(kind.storage), kind)
    )


def numbered(kv_layout: str, interleaved: bool, table: Array, *, page_size: int = 3) -> Tensors:
    """A pool in which each number tells its place: page, slot, head, dim, and a minus sign for V."""
    problem = Problem(num_qo_heads=2, num_kv_heads=2, head_dim=2, page_size=page_size)
    pages = int(table.max()) + 1
    storage = np.zeros(pool_shape(problem, pages, kv_layout=kv_layout, interleaved=interleaved), np.float32)
    pool = KvPool(storage=storage, kv_layout=kv_layout, interleaved=interleaved)
    page, slot, head, dim = np.ix_(*(np.arange(n) for n in (pages, page_size, 2, 2)))
    number = page * 1000 + slot * 100 + head * 10 + dim + 1
    turn = (0, 1, 2, 3) if kv_layout == "NHD" else (0, 2, 1, 3)
    pool.k[...] = number.transpose(turn)
    pool.v[...] = -number.transpose(turn)
    lengths = (8,) * table.shape[0]
    return Tensors(
        case=Case(problem=problem, batch=Batch(kv_lens=lengths)),
        q=np.zeros((table.shape[0], 2, 2), np.float32),
        pool=pool,
        layout=PageLayout(page_size=page_size, num_pages=pages, block_table=table.astype(np.int32)),
        kv_lens=np.asarray(lengths, np.int32),
        qo_indptr=np.arange(table.shape[0] + 1, dtype=np.int32),
    )


@pytest.mark.parametrize("kv_layout", KV_LAYOUTS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_gather_reads_the_slot_that_the_table_names(kv_layout: str, interleaved: bool) -> None:
    tensors = numbered(kv_layout, interleaved, np.array([[4, 0, 2], [1, 5, 3]]))
    keys = gather_tokens(tensors, 1, "k", 0, 8)
    assert keys.shape == (8, 2, 2)
    assert keys[:, 0, 0].tolist() == [1001, 1101, 1201, 5001, 5101, 5201, 3001, 3101]
    assert keys[4].tolist() == [[5101, 5102], [5111, 5112]]
    part = gather_tokens(tensors, 0, "v", 2, 5, head=1)
    assert part.tolist() == [[-4211, -4212], [-11, -12], [-111, -112]]
    assert gather_tokens(tensors, 0, "v", 3, 3).shape == (0, 2, 2)


def test_gather_reaches_pages_above_16_bits_in_a_lazy_pool() -> None:
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=64, page_size=256)
    # 8 GiB of address space, of which two pages are touched
    storage = np.zeros(pool_shape(problem, 65_600, kv_layout="NHD", interleaved=False), np.float32)
    storage[0, 65_599, 255, 0, 63] = 7.0
    storage[0, 63, 255, 0, 63] = 5.0
    tensors = replace(
        build_tensors(Case(problem=problem, batch=Batch(kv_lens=(256,)))),
        pool=KvPool(storage=storage, kv_layout="NHD", interleaved=False),
        layout=PageLayout(page_size=256, num_pages=65_600, block_table=np.full((1, 1), 65_599, np.int32)),
    )
    assert gather_tokens(tensors, 0, "k", 255, 256)[0, 0, 63] == 7.0


def test_gather_rejects_pages_and_tokens_that_do_not_exist() -> None:
    tensors = numbered("NHD", False, np.array([[0, 5, 1]]))
    bad = replace(tensors.layout, block_table=np.array([[0, -1, 6]], np.int32))
    broken = replace(tensors, layout=bad)
    with pytest.raises(InvalidCase, match="page id = -1: logical page 1"):
        gather_tokens(broken, 0, "k", 0, 6)
    with pytest.raises(InvalidCase, match="page id = 6: logical page 2"):
        gather_tokens(broken, 0, "k", 6, 7)
    with pytest.raises(InvalidCase, match="block_table width = 3: token 9 of sequence 0 needs 4 pages"):
        gather_tokens(tensors, 0, "k", 0, 10)
