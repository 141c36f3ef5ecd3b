# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from fractions import Fraction as F  # noqa: N817

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabench.errors import InvalidCase
from pabench.problem.layout import pages_needed
from pabench.problem.lengths import parse_lengths
from pabench.problem.memory import memory_figures

LENGTHS = parse_lengths("list:100,250,17,1024,16,1").draw(6, seed=0, page_size=16)

# page size, pages of each sequence, slots, waste, internal fragmentation, gain, tokens in each last page;
# worked out by hand
TABLE = [
    (1, (100, 250, 17, 1024, 16, 1), 1408, 0, F(0), F(48, 11), (1, 1, 1, 1, 1, 1)),
    (8, (13, 32, 3, 128, 2, 1), 1432, 24, F(3, 179), F(768, 179), (4, 2, 1, 8, 8, 1)),
    (16, (7, 16, 2, 64, 1, 1), 1456, 48, F(3, 91), F(384, 91), (4, 10, 1, 16, 16, 1)),
    (32, (4, 8, 1, 32, 1, 1), 1504, 96, F(3, 47), F(192, 47), (4, 26, 17, 32, 16, 1)),
    (64, (2, 4, 1, 16, 1, 1), 1600, 192, F(3, 25), F(96, 25), (36, 58, 17, 64, 16, 1)),
    (128, (1, 2, 1, 8, 1, 1), 1792, 384, F(3, 14), F(24, 7), (100, 122, 17, 128, 16, 1)),
    (256, (1, 1, 1, 4, 1, 1), 2304, 896, F(7, 18), F(8, 3), (100, 250, 17, 256, 16, 1)),
]


@pytest.mark.parametrize(("page_size", "pages", "slots", "waste", "internal", "gain", "fill"), TABLE)
def test_memory_exact_figures(
    page_size: int,
    pages: tuple[int, ...],
    slots: int,
    waste: int,
    internal: F,
    gain: F,
    fill: tuple[int, ...],
) -> None:
    figures = memory_figures(LENGTHS, page_size)
    assert (figures.num_pages, figures.slots, figures.tokens) == (sum(pages), slots, 1408)
    assert figures.waste_tokens == waste
    assert figures.internal_fragmentation == internal
    assert figures.contiguous_fragmentation == F(37, 48)
    assert figures.efficiency_gain == gain
    assert figures.block_table_bytes == 4 * 6 * max(pages)
    assert figures.csr_table_bytes == 4 * (7 + sum(pages) + 6)
    assert tuple(pages_needed(n, page_size) for n in LENGTHS) == pages
    assert sum(page_size - last for last in fill) == waste


@pytest.mark.parametrize("lengths", [(), (0,), (0, 0, 0)])
def test_memory_of_no_tokens_is_zero(lengths: tuple[int, ...]) -> None:
    figures = memory_figures(lengths, 16)
    assert (figures.num_pages, figures.slots, figures.waste_tokens, figures.block_table_bytes) == (0, 0, 0, 0)
    assert figures.internal_fragmentation == figures.contiguous_fragmentation == figures.efficiency_gain == 0


@pytest.mark.parametrize(
    ("lengths", "page_size", "text"),
    [
        ([1, -2], 16, "kv_lens[1] = -2: must be at least 0"),
        ([1.5], 16, "kv_lens[0] = 1.5: must be a whole number"),
        ([1], 0, "page_size = 0: must be at least 1"),
    ],
)
def test_memory_rejects_bad_input(lengths: list[int], page_size: int, text: str) -> None:
    with pytest.raises(InvalidCase) as caught:
        memory_figures(lengths, page_size)
    assert str(caught.value) == text


@given(st.lists(st.integers(0, 5000), max_size=12), st.integers(1, 600))
def test_memory_relations_property(lengths: list[int], page_size: int) -> None:
    figures = memory_figures(lengths, page_size)
    assert figures.slots == figures.num_pages * page_size == figures.tokens + figures.waste_tokens
    used = sum(n > 0 for n in lengths)
    assert 0 <= figures.waste_tokens <= (page_size - 1) * used
    assert 0 <= figures.internal_fragmentation < 1
    assert 0 <= figures.contiguous_fragmentation < 1
    if figures.tokens:
        # the gain is what the two fragmentations say together
        ratio = (1 - figures.internal_fragmentation) / (1 - figures.contiguous_fragmentation)
        assert figures.efficiency_gain == ratio
    assert memory_figures(lengths, 1).waste_tokens == 0
