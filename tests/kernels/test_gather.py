# SPDX-License-Identifier: Apache-2.0
"""kv_gather.cu: tokens come out of their pages as they went in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from pabench.checks.gather_checks import check_gather
from pabench.device.checked import CheckedDevice
from pabench.errors import InvalidCase
from pabench.problem import Batch, Case, KvPool, Problem, build_tensors
from pabench.problem.append import AppendCase, build_append
from pabench.problem.dtypes import DTYPES, E4M3, decode, encode
from pabench.strategies import append_cases
from pabench.subjects.backends.rawkernel import RawKernelBackend
from tests.support.probe import DEVICE

BACKEND = RawKernelBackend(DEVICE)
PROBLEM = Problem(num_qo_heads=2, num_kv_heads=2, head_dim=128, page_size=4, dtype="float16")
CASE = Case(problem=PROBLEM, batch=Batch(kv_lens=(9, 0, 4)), poison="nan")


@settings(max_examples=30, deadline=None)
@given(case=append_cases(dtypes=["float16"], head_dims=[16], paged=True))
def test_kernels_gather_brings_back_what_was_appended_property(case: AppendCase) -> None:
    pool, keys, values, _ = build_append(case)
    table, lens = case.layout.block_table, np.asarray(case.kv_lens, np.int32)
    written = BACKEND.append_paged(
        pool, case.problem, keys, values, block_table=table, kv_lens=lens, qo_indptr=case.batch.qo_indptr
    )
    got = BACKEND.gather(pool.with_storage(written), case.problem, block_table=table, kv_lens=lens, raw=True)
    ends = np.cumsum(lens)
    new = [row for end, n in zip(ends, case.batch.query_lens, strict=True) for row in range(end - n, end)]
    assert got[0][new].tobytes() == keys.tobytes()
    assert got[1][new].tobytes() == values.tobytes()


@pytest.mark.parametrize("name", DTYPES)
def test_kernels_gather_rounds_once(name: str) -> None:
    """Every number of e4m3 times scales among which float32 rounds to ties of the smaller types."""
    dtype, page = DTYPES[name], np.arange(256, dtype=np.uint8)
    odd = np.random.default_rng(0).uniform(0.5, 2.0, 64).astype(np.float32)
    # a multiple of half a place of the target, and a little: float32 drops it
    bits = {"float32": 23, "float16": 10, "bfloat16": 7}[name]
    near = np.float32(1.0 + 2.0 ** -(bits + 1) + 2.0**-23)
    scales = [float(scale) for scale in (*odd, near, np.float32(15.0) * near / np.float32(13.0))]
    # a head a number
    storage = np.broadcast_to(page[:, None, None], (2, 1, 256, 1, 1)).copy()
    pool = KvPool(storage=storage, kv_layout="HND", interleaved=False)
    for scale in scales:
        problem = Problem(
            num_qo_heads=256,
            num_kv_heads=256,
            head_dim=1,
            page_size=1,
            dtype=name,
            kv_dtype="e4m3",
            k_scale=(scale,),
            v_scale=(scale,),
        )
        keys, _ = BACKEND.gather(
            pool,
            problem,
            block_table=np.zeros((1, 1), np.int32),
            kv_lens=np.ones(1, np.int32),
            raw=False,
        )
        expected = encode(decode(page, E4M3) * scale, dtype)
        finite = np.isfinite(decode(page, E4M3))
        assert keys[0, finite, 0].tobytes() == expected[finite].tobytes()
        assert np.isnan(decode(keys[0, ~finite, 0], dtype)).all()


def test_kernels_gather_is_clean_and_reads_each_token_once() -> None:
    device = CheckedDevice(count=True)
    assert check_gather(CASE, RawKernelBackend(device), device).passed
    assert device.findings == []
    counted = device.counters["kv_gather"]
    token = PROBLEM.token_bytes
    assert counted.loaded_bytes("k", "v") == 13 * token
    totals = counted.totals()
    assert (totals.store_bytes, totals.store_sectors) == (13 * token, 13 * token // 32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kv_lens": np.array([9, 0, 17], np.int32)}, "block_table width"),
        ({"kv_lens": np.array([9, 0])}, "kv_lens = 'int64"),
        ({"kv_lens": np.array([9, 0], np.int32)}, "block_table rows"),
        ({"block_table": np.full((3, 4), 99, np.int32)}, "must be a page of the pool"),
        ({"problem": Problem(num_qo_heads=2, num_kv_heads=2, head_dim=64, page_size=4)}, "cache = "),
    ],
)
def test_kernels_gather_refuses_what_does_not_fit(change: dict[str, Any], words: str) -> None:
    tensors = build_tensors(CASE)
    given = {"problem": PROBLEM, "block_table": tensors.layout.block_table, "kv_lens": tensors.kv_lens}
    with pytest.raises(InvalidCase, match=words):
        BACKEND.gather(tensors.pool, **{**given, **change}, raw=True)
