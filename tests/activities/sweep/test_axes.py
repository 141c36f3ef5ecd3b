# SPDX-License-Identifier: Apache-2.0
"""Lists, ranges, heads and names as a user writes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabench.activities.sweep.axes import parse_heads, parse_names, parse_numbers
from pabench.errors import PabenchError, UnknownName, UsageError


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("8,16,32", (8, 16, 32)),
        (" 8 , 16", (8, 16)),
        ("1:64:x2", (1, 2, 4, 8, 16, 32, 64)),
        ("1:63:x2", (1, 2, 4, 8, 16, 32)),
        ("16:64:16", (16, 32, 48, 64)),
        ("3,8:10:1", (3, 8, 9, 10)),
        ("5:5:1", (5,)),
        (7, (7,)),
        ([8, "16", 32], (8, 16, 32)),
    ],
)
def test_axes_numbers_read_lists_and_ranges(text: object, numbers: tuple[int, ...]) -> None:
    assert parse_numbers("--page-sizes", text) == numbers


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0", "item 1 is '0', must be a whole number from 1 to"),
        ("8,x", "item 2 is 'x', must be a whole number"),
        ("8,,16", "item 2 is empty"),
        ("8,16,", "item 3 is empty"),
        ("", "the list is empty"),
        ("  ", "the list is empty"),
        ([], "the list is empty"),
        ("8,16,8", "item 3 gives 8 a second time"),
        ("4,1:8:x2", "item 2 gives 4 a second time"),
        ("-8", "item 1 is '-8'"),
        ("8.0", "item 1 is '8.0'"),
        ("1e3", "item 1 is '1e3'"),
        ("٣", "item 1 is '٣'"),
        ("0x10", "item 1 is '0x10'"),
        ("8;16", "item 1 is '8;16'"),
        ("9" * 5000, "item 1 is '9999"),
        ("101", "must be a whole number from 1 to 100"),
        ("1:64", "item 1 is '1:64', a range must read"),
        ("64:1:x2", "its last number 1 is below its first 64"),
        ("1:64:x1", "a factor must be at least x2"),
        ("1:64:0", "item 1 is '0'"),
        ("1:64:x", "item 1 is empty"),
        ("1:64:x2:3", "a range must read"),
        (True, "item 1 is 'True'"),
        (None, "item 1 is 'None'"),
    ],
)
def test_axes_numbers_errors_name_item_and_position(text: object, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_numbers("--page-sizes", text, high=100)
    message = str(caught.value)
    assert words in message
    assert message.startswith("--page-sizes")
    assert "\n" not in message
    assert len(message) < 300


def test_axes_numbers_bound_the_length_of_a_range() -> None:
    with pytest.raises(UsageError, match="must be at most 4096"):
        parse_numbers("--batch", "1:2000000000:1")


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20, unique=True))
def test_axes_numbers_round_trip_property(numbers: list[int]) -> None:
    assert parse_numbers("--batch", ",".join(map(str, numbers))) == tuple(numbers)


@given(st.text(max_size=30))
def test_axes_any_text_is_read_or_refused_in_one_line_property(text: str) -> None:
    parsers: tuple[Callable[[str, str], tuple[int, ...]], ...] = (parse_numbers, parse_heads)
    for parse in parsers:
        message = ""
        try:
            parsed = parse("--x", text)
            assert all(number >= 1 for number in parsed)
        except PabenchError as error:
            message = str(error)
        assert not message or message.isprintable()


@pytest.mark.parametrize(
    ("text", "pair"), [("32:8", (32, 8)), ("8", (8, 8)), ("7:1", (7, 1)), ("6:2", (6, 2))]
)
def test_axes_heads_are_query_and_kv(text: str, pair: tuple[int, int]) -> None:
    assert parse_heads("--heads", text) == pair


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("32:5", "32 query heads must be a multiple of 5 KV heads"),
        ("0:1", "query heads"),
        ("8:0", "KV heads"),
        ("8:2:1", "must read QUERY_HEADS:KV_HEADS"),
        ("a:b", "query heads"),
        ("", "query heads"),
    ],
)
def test_axes_heads_errors_name_the_rule(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_heads("--heads", text)


def test_axes_names_offer_the_nearest() -> None:
    known = ("float32", "float16", "bfloat16")
    assert parse_names("--dtypes", "dtype", ["float16", " float32"], known) == ("float16", "float32")
    with pytest.raises(UnknownName, match="unknown dtype 'flot16'; did you mean 'float16'"):
        parse_names("--dtypes", "dtype", ["flot16"], known)
    with pytest.raises(UsageError, match="item 2 is empty"):
        parse_names("--dtypes", "dtype", ["float16", ""], known)
    with pytest.raises(UsageError, match="item 2 repeats 'float16'"):
        parse_names("--dtypes", "dtype", ["float16", "float16"], known)
    with pytest.raises(UsageError, match="the list is empty"):
        parse_names("--dtypes", "dtype", [], known)
