# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabench.errors import InvalidCase
from pabench.problem.checks import INT32_MAX
from pabench.problem.layout import CsrTable, PageLayout, layout_from_csr, pages_needed
from pabench.problem.placement import HIGH_PAGE_BASE, PLACEMENTS, TABLE_TAILS, place_pages

LENGTHS = st.lists(st.integers(0, 200), min_size=1, max_size=8)


def _place(kv_lens: list[int], page_size: int, seed: int = 0, **options: object) -> PageLayout:
    return place_pages(kv_lens, page_size, rng=np.random.default_rng(seed), **options)  # type: ignore[arg-type]


def _used(layout: PageLayout, kv_lens: list[int]) -> list[int]:
    return [int(page) for i, n in enumerate(kv_lens) for page in layout.pages(i, n)]


@given(
    LENGTHS,
    st.integers(1, 64),
    st.sampled_from(PLACEMENTS),
    st.sampled_from(TABLE_TAILS),
    st.integers(0, 9),
    st.integers(0, 2**32),
)
def test_placement_gives_each_page_once_property(
    kv_lens: list[int], page_size: int, placement: str, tail: str, spare_pages: int, seed: int
) -> None:
    layout = _place(kv_lens, page_size, seed, placement=placement, tail=tail, spare_pages=spare_pages)
    layout.validate(kv_lens)
    used = _used(layout, kv_lens)
    assert len(used) == len(set(used)) == sum(pages_needed(n, page_size) for n in kv_lens)
    assert all(0 <= page < layout.num_pages for page in used)
    assert layout.num_pages >= len(used) + spare_pages
    tails = [
        int(v) for i, n in enumerate(kv_lens) for v in layout.block_table[i, pages_needed(n, page_size) :]
    ]
    assert len(tails) >= len(kv_lens)
    fixed = {"zero": {0}, "minus-one": {-1}, "int-max": {INT32_MAX}, "out-of-pool": {layout.num_pages}}
    assert set(tails) <= fixed.get(tail, {*used} or {-1})


@given(LENGTHS, st.integers(1, 64), st.sampled_from(PLACEMENTS), st.sampled_from(TABLE_TAILS))
def test_layout_padded_csr_round_trip_property(
    kv_lens: list[int], page_size: int, placement: str, tail: str
) -> None:
    layout = _place(kv_lens, page_size, placement=placement, tail=tail)
    table = layout.to_csr(kv_lens)
    assert table.indptr.dtype == table.indices.dtype == table.last_page_len.dtype == np.int32
    back, lengths = layout_from_csr(table, page_size=page_size, num_pages=layout.num_pages)
    assert lengths == tuple(kv_lens)
    assert _used(back, kv_lens) == _used(layout, kv_lens)
    assert back.max_pages == max(pages_needed(n, page_size) for n in kv_lens)
    again = back.to_csr(lengths)
    for name in ("indptr", "indices", "last_page_len"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))


def test_placement_identity_and_reversed_orders() -> None:
    assert _used(_place([5, 0, 9], 4, placement="identity", spare_pages=2), [5, 0, 9]) == [0, 1, 2, 3, 4]
    assert _used(_place([5, 0, 9], 4, placement="reversed", spare_pages=2), [5, 0, 9]) == [6, 5, 4, 3, 2]


def test_placement_shuffled_is_seeded_and_scatters() -> None:
    kv_lens = [640]
    first, second = (_used(_place(kv_lens, 16, seed), kv_lens) for seed in (1, 2))
    assert first == _used(_place(kv_lens, 16, 1), kv_lens)
    assert first != second
    assert first != sorted(first)
    assert sorted(first) == list(range(40))


def test_placement_high_straddles_16_bits() -> None:
    kv_lens = [16 * 40, 16 * 24]
    layout = _place(kv_lens, 16, placement="high")
    used = _used(layout, kv_lens)
    assert min(used) < HIGH_PAGE_BASE <= max(used)
    assert used != sorted(used)
    wrapped = {page % HIGH_PAGE_BASE for page in used if page >= HIGH_PAGE_BASE}
    assert wrapped
    assert not wrapped & set(used)


def test_placement_high_of_one_page_is_above_16_bits() -> None:
    assert _used(_place([1], 16, placement="high"), [1])[0] >= HIGH_PAGE_BASE


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"placement": "random"}, "placement = 'random': must be one of identity, shuffled, reversed, high"),
        ({"tail": "x"}, "tail = 'x': must be one of"),
        ({"spare_pages": -1}, "spare_pages = -1: must be at least 0"),
        ({"spare_pages": INT32_MAX}, f"num_pages = {INT32_MAX + 1}: must be at most {INT32_MAX}"),
        ({"tail_columns": -1}, "tail_columns = -1"),
        ({"page_size": 0}, "page_size = 0: must be at least 1"),
        ({"kv_lens": [-3]}, r"kv_lens\[0\] = -3: must be at least 0"),
    ],
)
def test_placement_rejects(options: dict[str, object], text: str) -> None:
    arguments = {"kv_lens": [1], "page_size": 16, "rng": np.random.default_rng(0)} | options
    with pytest.raises(InvalidCase, match=text):
        place_pages(**arguments)  # type: ignore[arg-type]


def _layout(table: list[list[int]], *, page_size: int = 4, num_pages: int = 8) -> PageLayout:
    return PageLayout(
        page_size=page_size,
        num_pages=num_pages,
        block_table=np.asarray(table, np.int32).reshape(len(table), -1),
    )


@pytest.mark.parametrize(
    ("table", "kv_lens", "text"),
    [
        ([[0, 1]], [4, 4], "block_table rows = 1: must have one row per sequence, 2"),
        ([[0, 1]], [9], "block_table width = 2: sequence 0 of 9 tokens needs 3 pages of 4"),
        ([[0, 8]], [5], r"block_table\[0, 1\] = 8: must be a page of the pool, 0 to 7"),
        ([[0, 1], [-1, 0]], [4, 4], r"block_table\[1, 0\] = -1: must be a page of the pool"),
        ([[0, 1]], [-4], r"kv_lens\[0\] = -4: must be at least 0"),
        ([[0, 1]], [float("nan")], r"kv_lens\[0\] = nan: must be a whole number"),
    ],
)
def test_layout_validate_names_the_place(table: list[list[int]], kv_lens: list[int], text: str) -> None:
    layout = _layout(table)
    with pytest.raises(InvalidCase, match=text):
        layout.validate(kv_lens)
    with pytest.raises(InvalidCase, match=text):
        layout.to_csr(kv_lens)


def test_layout_tail_garbage_is_allowed() -> None:
    _layout([[3, INT32_MAX], [-1, -1]]).validate([4, 0])


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (np.zeros(3, np.int32), "must have shape"),
        (np.zeros((1, 3), np.int64), "block_table = 'int64': must have dtype int32"),
    ],
)
def test_layout_rejects_shape_and_dtype(table: np.ndarray, text: str) -> None:
    with pytest.raises(InvalidCase, match=text):
        PageLayout(page_size=4, num_pages=8, block_table=table)


@pytest.mark.parametrize(
    ("indptr", "indices", "last", "text"),
    [
        ([], [], [], "indptr = .*must be a vector that starts at 0"),
        ([1, 2], [0, 1], [1], "must be a vector that starts at 0"),
        ([0, 2, 1], [0], [1, 1], "must not decrease"),
        ([0, 2], [0], [1], "indptr = 2: must end at the number of indices, 1"),
        ([0, 1], [0], [1, 1], "last_page_len = .*one entry per sequence, 1"),
        ([0, 1], [0], [5], r"last_page_len\[0\] = 5: must be in 1..4"),
        ([0, 1], [0], [0], r"last_page_len\[0\] = 0: must be in 1..4"),
        ([0, 0], [], [1], r"last_page_len\[0\] = 1: must be 0 for a sequence without pages"),
        ([0, 1], [8], [1], r"indices\[0\] = 8: must be a page of the pool, 0 to 7"),
        ([0, 2], [0, 2**32], [1], r"indices\[1\] = 4294967296: must be a page of the pool"),
        ([0, 1], [0.5], [1], "indices = .*must be a vector of whole numbers"),
        ([[0, 1]], [0], [1], "indptr = .*must be a vector of whole numbers"),
    ],
)
def test_layout_from_csr_rejects(indptr: list[int], indices: list[int], last: list[int], text: str) -> None:
    table = CsrTable(indptr=np.asarray(indptr), indices=np.asarray(indices), last_page_len=np.asarray(last))
    with pytest.raises(InvalidCase, match=text):
        layout_from_csr(table, page_size=4, num_pages=8)
