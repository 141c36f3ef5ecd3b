# SPDX-License-Identifier: Apache-2.0
"""Streams of token ids: what they share, where they part, and that they part by little."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pabench.errors import InvalidCase
from pabench.judge.allocators.operations import operation_from_json
from pabench.judge.allocators.streams import (
    NEAR,
    PLACES,
    TOP,
    Word,
    cut,
    flat,
    run_of,
    stream_of,
    tokens_of,
    turns_of,
    words,
)

LOST: dict[str, Callable[[Word], Any]] = {
    "bits above the 8th": lambda tokens: [token & 2**8 - 1 for token in tokens],
    "bits above the 16th": lambda tokens: [token & 2**16 - 1 for token in tokens],
    "bits above the 19th": lambda tokens: [token & 2**19 - 1 for token in tokens],
    "the lowest bit": lambda tokens: [token // 2 for token in tokens],
    "order": sorted,
    "all but the sum": sum,
    "where a token ends": lambda tokens: "".join(map(str, tokens)),
}


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("length", [4, 12, 192])
def test_streams_have_words_that_a_key_must_tell_apart(lost: str, length: int) -> None:
    for place in range(PLACES):
        first, *others = words(place, length)
        assert len({first, *others}) == 1 + NEAR
        assert all(len(word) == length and min(word) >= 0 and max(word) < TOP for word in others)
        assert any(LOST[lost](word) == LOST[lost](first) for word in others)


@pytest.mark.parametrize("page_size", [1, 4, 8, 16, 256])
def test_streams_part_in_the_run_that_differs_and_nowhere_else(page_size: int) -> None:
    run = run_of(page_size)
    a, b = (((0, stream_of(digits, 1)),) for digits in ((), (0, 3)))
    first, second = tokens_of(a, 0, 4 * run, page_size), tokens_of(b, 0, 4 * run, page_size)
    assert first[:run] == second[:run]
    assert first[run : 2 * run] != second[run : 2 * run]
    assert first[2 * run :] == second[2 * run :]
    # in any part as in the whole
    assert tokens_of(b, run + 1, run, page_size) == second[run + 1 : 2 * run + 1]


def test_streams_of_old_histories_are_of_tokens_0_and_1() -> None:
    assert tokens_of(((0, 5),), 0, 13, 4) == [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0]


def test_streams_turn_where_a_sequence_was_cut() -> None:
    turns = cut(((0, 5),), 6, 2)
    assert turns == ((0, 5), (6, 2))
    assert tokens_of(turns, 4, 6, 4) == [0, 0, 1, 1, 0, 0]
    assert cut(turns, 9) == turns
    assert cut(turns, 6) == ((0, 5),)
    assert cut(turns, 0, 7) == ((0, 7),)
    assert turns_of(5, flat(turns)) == turns
    assert turns_of(5, [6, 2, 6, 3, 9]) == turns


def test_streams_of_saved_operations_are_read_back() -> None:
    stream = stream_of([NEAR] * 8, PLACES - 1)
    prompt = {"stream": stream, "adapter": "", "salt": ""}
    for name, given in (
        ("alloc", {"sequence": 0, "tokens": 1, "final_tokens": None, **prompt}),
        ("lookup", {"tokens": 9, "turns": [4, stream], **prompt}),
    ):
        assert operation_from_json([name, given]) == (name, given)
        with pytest.raises(InvalidCase, match=rf"{name}\.tokens = {stream}: must be at most"):
            operation_from_json([name, {**given, "tokens": stream}])
