# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import mmap
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.checks.smaller import smaller_cases
from pabench.errors import InvalidCase
from pabench.kernels.append import append_tokens
from pabench.problem import KvPool, Problem
from pabench.problem.append import AppendCase, append_case_from_dict, build_append
from pabench.problem.dtypes import FLOAT16, Array
from pabench.subjects.backends.rawkernel import RawKernelBackend
from tests.support.probe import DEVICE

BACKEND = RawKernelBackend(DEVICE)


def expected_storage(case: AppendCase, pool: KvPool, keys: Array, values: Array) -> Array:
    after = pool.with_storage(pool.storage.copy())
    for token, slot in enumerate(case.slots):
        if slot >= 0:
            page, offset = divmod(slot, case.problem.page_size)
            place = (page, offset) if case.kv_layout == "NHD" else (page, slice(None), offset)
            after.k[place], after.v[place] = keys[token], values[token]
    return np.asarray(after.storage)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_kernels_append_like_numpy_property(data: st.DataObject) -> None:
    head_dim, dtype = data.draw(st.sampled_from([(5, "float32"), (64, "float16"), (64, "bfloat16")]))
    heads, page_size, pages = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 20), st.integers(1, 6)))
    slots = data.draw(st.lists(st.integers(-1, pages * page_size - 1), max_size=40))
    live = {slot: token for token, slot in enumerate(slots)}  # the last token of a slot keeps it
    case = AppendCase(
        problem=Problem(
            num_qo_heads=heads, num_kv_heads=heads, head_dim=head_dim, page_size=page_size, dtype=dtype
        ),
        num_pages=pages,
        slots=tuple(slot if live[slot] == token else -1 for token, slot in enumerate(slots)),
        kv_layout=data.draw(st.sampled_from(["NHD", "HND"])),
        interleaved=data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 1000)),
    )
    pool, keys, values, slot_mapping = build_append(case)
    before = pool.storage.tobytes()
    after = BACKEND.append(pool, dtype, keys, values, slot_mapping)
    assert after.tobytes() == expected_storage(case, pool, keys, values).tobytes()
    assert pool.storage.tobytes() == before


def test_kernels_append_beyond_two_to_the_31_elements() -> None:
    page = 2**20
    num_pages = 2**31 // page + 4
    try:
        memory = mmap.mmap(-1, 2 * num_pages * page * 2, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
    except OSError as error:
        pytest.skip(f"no address space of 8 GB here: {error}")
    storage = np.frombuffer(memory, np.float16).reshape(2, num_pages, page // 64, 1, 64)
    pool = KvPool(storage=storage, kv_layout="NHD", interleaved=False)
    keys = np.arange(3 * 64, dtype=np.float16).reshape(3, 1, 64)
    tokens = page // 64
    slots = np.array([5, (num_pages - 1) * tokens + 3, -1], np.int64)
    append_tokens(DEVICE, FLOAT16, pool=pool, keys=keys, values=-keys, slot_mapping=slots, page_size=tokens)
    np.testing.assert_array_equal(pool.k[0, 5], keys[0])
    np.testing.assert_array_equal(pool.k[num_pages - 1, 3], keys[1])
    np.testing.assert_array_equal(pool.v[num_pages - 1, 3], -keys[1])
    wrapped = ((num_pages - 1) * page + 3 * 64) % 2**31
    assert not pool.k[wrapped // page, wrapped % page // 64].any()


E4M3 = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=1, page_size=4, kv_dtype="e4m3")


def stored_e4m3(number: float, scale: float) -> int:
    """What the kernel stores of one key."""
    pool = KvPool(storage=np.zeros((2, 1, 4, 1, 1), np.uint8), kv_layout="NHD", interleaved=False)
    row = np.full((1, 1, 1), number, np.float32)
    after = BACKEND.append_e4m3(pool, replace(E4M3, k_scale=(scale,)), row, row, np.zeros(1, np.int64))
    return int(after[0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("number", "scale", "code"),
    [
        # in float32 each quotient is 17, half way from 16 (0x58) to 18 (0x59); in truth below, above, at it
        (27.82834815979004, 1.6369616985321045, 0x58),
        (21.586374282836914, 1.2697867155075073, 0x59),
        (17.0, 1.0, 0x58),
        (-17.696550369262695, 1.0409735441207886, 0xD9),
        # too large, and what rounds to it
        (463.9, 1.0, 0x7E),
        (1e38, 2.0**-20, 0x7E),
        (-np.inf, 1.0, 0xFE),
        (np.nan, 1.0, 0x7F),
        # the smallest number, half of it, and next to nothing
        (2.0**-9, 1.0, 0x01),
        (2.0**-10, 1.0, 0x00),
        (np.nextafter(np.float32(2.0**-10), np.float32(1)), 1.0, 0x01),
        (-1e-44, 4.0, 0x80),
    ],
)
def test_kernels_append_rounds_once(number: float, scale: float, code: int) -> None:
    assert stored_e4m3(number, scale) == code


PAGED = AppendCase(
    problem=Problem(num_qo_heads=1, num_kv_heads=1, head_dim=8, page_size=2),
    num_pages=4,
    block_table=((3, 0, -1), (1, 9, 9)),
    kv_lens=(3, 1),
    q_lens=(2, 1),
)


def test_kernels_append_case_finds_its_slots() -> None:
    assert PAGED.slots == (7, 0, 2)
    assert append_case_from_dict(PAGED.to_dict()) == PAGED
    assert "block_table" not in replace(PAGED, block_table=None, kv_lens=None, q_lens=None).to_dict()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block_table": None}, "block_table = None: must be given"),
        ({"slots": (1, 2, 3)}, "must be left out, or those of the block table"),
        ({"q_lens": (2, 2)}, r"q_lens\[1\] = 2: must be at most kv_lens\[1\] = 1"),
        ({"block_table": ((3, 0), (1, 9, 9))}, "must have rows of one length"),
        ({"block_table": ((3, 4, 0), (1, 9, 9))}, "must be a page of the pool"),
        ({"block_table": ((3, 2, 0), (1, 9, 9))}, None),
        ({"block_table": ((1, 0, 0), (1, 9, 9)), "kv_lens": (1, 1), "q_lens": (1, 1)}, "a slot twice"),
        ({"block_table": "no"}, "must be a list of lists"),
    ],
)
def test_kernels_append_case_is_checked(change: dict[str, Any], words: str | None) -> None:
    fields = {"slots": ()} | change
    if words is None:
        replace(PAGED, **fields)
        return
    with pytest.raises(InvalidCase, match=words):
        replace(PAGED, **fields)


def test_kernels_append_scales_are_float32_numbers() -> None:
    with pytest.raises(InvalidCase, match=r"k_scale = 0.1: must be a float32 number"):
        AppendCase(problem=replace(E4M3, k_scale=(0.1,)), num_pages=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kv_lens": np.array([3, 0], np.int32)}, r"kv_lens\[1\] = 0: must hold its 1 new tokens"),
        ({"kv_lens": np.array([3, 1])}, "kv_lens = 'int64"),
        ({"qo_indptr": np.array([0, 2], np.int32)}, "must rise from 0 and have 3 entries"),
        ({"qo_indptr": np.array([0, 3, 2], np.int32)}, "must rise from 0"),
        ({"qo_indptr": np.array([0, 2, 4], np.int32)}, "keys = .*: must have shape"),
        ({"block_table": np.array([[3, 0], [4, 1]], np.int32)}, "must be a page of the pool"),
        ({"block_table": np.array([[3, 1], [1, 0]], np.int32)}, "must not name a slot twice"),
        ({"block_table": np.array([[3], [1]], np.int32)}, "block_table width"),
        ({"block_table": np.array([[3, 0], [1, 0]])}, "must have dtype int32"),
    ],
)
def test_kernels_append_refuses_tables_that_do_not_fit(change: dict[str, Any], words: str) -> None:
    pool, keys, values, _ = build_append(PAGED)
    given = {
        "block_table": np.array([[3, 0], [1, 0]], np.int32),
        "kv_lens": np.array([3, 1], np.int32),
        "qo_indptr": np.array([0, 2, 3], np.int32),
    }
    BACKEND.append_paged(pool, PAGED.problem, keys, values, **given)
    with pytest.raises(InvalidCase, match=words):
        BACKEND.append_paged(pool, PAGED.problem, keys, values, **{**given, **change})


def test_kernels_append_smaller_cases_of_a_table() -> None:
    found = list(smaller_cases(PAGED))
    assert any(isinstance(c, AppendCase) and c.block_table == ((1, 9, 9),) for c in found)
    assert any(isinstance(c, AppendCase) and c.q_lens == (1, 1) for c in found)
