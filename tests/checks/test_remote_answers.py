# SPDX-License-Identifier: Apache-2.0
"""What a subject's process says is read with doubt, and what is lent to it keeps its form."""

from __future__ import annotations

import gc
import os
from typing import Any

import numpy as np
import pytest

from pabench.checks.remote.answers import Answers, Nonsense, error_of
from pabench.checks.remote.arena import Arena, lend, segments
from pabench.checks.remote.errors import SubjectRaised
from pabench.problem.huge_pool import lent_by, reserved_zeros
from pabench.subjects.process.answers import Answer
from pabench.subjects.process.memory import Inputs

GIVEN: dict[str, Any] = {
    "contiguous": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "a slice": np.arange(24, dtype=np.int64).reshape(4, 6)[1:, ::2],
    "backwards": np.arange(9, dtype=np.uint8)[::-1],
    "by columns": np.asfortranarray(np.arange(12, dtype=np.float16).reshape(3, 4)),
    "one row for all": np.broadcast_to(np.arange(3, dtype=np.int32), (5, 3)),
    "empty": np.zeros((0, 3), np.float32),
    "a number": np.array(7, np.int16),
    "at an odd address": np.frombuffer(bytes(41), np.uint8)[1:].view(np.float32)[1:],
}


def read(told: Any, *parts: bytes) -> Any:
    return Answers(parts, lambda number, offset: None).read(told)


@pytest.mark.parametrize("name", GIVEN)
def test_remote_arena_keeps_the_form_of_arrays(name: str) -> None:
    given, arena = GIVEN[name], Arena()
    number, offset, dtype, shape, strides = arena.put(given)
    (segment,) = [one for one in segments() if one.number == number]
    there = Inputs()
    there.add(number, segment.size, os.dup(segment.descriptor))
    seen = there.array((number, offset, dtype, shape, strides))
    assert np.array_equal(seen, given)
    assert (seen.strides, seen.dtype, seen.shape) == (given.strides, given.dtype, given.shape)
    assert not seen.flags.writeable
    if given.size:
        assert seen.ctypes.data % 16 == given.ctypes.data % 16
    assert arena.put(given) == (number, offset, dtype, shape, strides)
    assert there.array((number, offset, dtype, shape, strides)) is seen


def test_remote_arena_tells_what_changed_and_begins_anew() -> None:
    arena, there, given = Arena(), Inputs(), np.arange(5)
    place = arena.put(given)
    (segment,) = [one for one in segments() if one.number == place[0]]
    there.add(segment.number, segment.size, os.dup(segment.descriptor))
    seen = there.array(place)
    given[2] = 99
    assert seen[2] == 2
    assert arena.put(given) == place
    assert seen[2] == 99
    other = np.arange(5) * 2
    assert arena.put(other) != place
    arena.begin()
    assert arena.put(other)[1] == place[1]
    large = arena.put(np.zeros(2**27, np.uint8))
    assert large[0] != place[0]
    assert arena.held_bytes > 2**27
    arena.begin()
    assert arena.held_bytes == 2**26


def test_remote_lent_pools_lie_where_they_are_and_are_given_back() -> None:
    gc.collect()
    before = {segment.number for segment in segments()}
    with lent_by(lend):
        pool = reserved_zeros((4, 2**20), np.dtype(np.float32))
    pool[3, 5] = 7
    arena = Arena()
    number, offset, _, _, _ = arena.put(pool[1:])
    assert number not in before
    # zeros lie before it, as far as a wrapped offset reaches
    assert offset == (2**31 + 2**20) * 4
    assert arena.held_bytes == 0
    arena.begin()
    del pool
    gc.collect()
    # those of before may be gone as well by now
    assert {segment.number for segment in segments()} <= before


VALUES: dict[str, Any] = {
    "none": None,
    "a list": [1, 2.5, "x", True, None],
    "a tuple of arrays": (np.arange(3), np.ones((2, 2), np.float16)),
    "a big number": 2**63,
    "a number of numpy": np.int32(5),
}


@pytest.mark.parametrize("name", VALUES)
def test_remote_values_come_as_they_were(name: str) -> None:
    answer = Answer(VALUES[name], Inputs())
    found = read(answer.value, *map(bytes, answer.parts))
    assert type(found) is type(VALUES[name])
    assert str(found) == str(VALUES[name])


ARRAY = {"dtype": "<f4", "shape": [2], "part": 0}


@pytest.mark.parametrize(
    "told",
    [
        [],
        {},
        {"array": None},
        {"array": {**ARRAY, "shape": [3]}},
        {"array": {**ARRAY, "shape": [-1, -2]}},
        {"array": {**ARRAY, "shape": [2.0]}},
        {"array": {**ARRAY, "shape": [1] * 33}},
        {"array": {**ARRAY, "dtype": 4}},
        {"array": {**ARRAY, "dtype": "<f3"}},
        {"array": {**ARRAY, "part": 1}},
        {"array": {**ARRAY, "part": True}},
        {"array": {**ARRAY, "part": -1}},
        {"output": [None]},
        {"output": None},
        {"hit": [None, None, None]},
        {"prompt": [[1.5], "", ""]},
        {"module": ["os"]},
        {"tuple": [{"tuple": [{"array": {}}]}]},
    ],
    ids=str,
)
def test_remote_nonsense_is_no_value(told: Any) -> None:
    with pytest.raises(Nonsense):
        read(told, bytes(8))


def test_remote_arrays_without_bytes_have_a_form_and_take_no_room() -> None:
    huge = read({"array": {"dtype": "<f8", "shape": [2**30, 2**9]}})
    assert (huge.shape, huge.dtype) == ((2**30, 2**9), np.float64)
    assert read({"array": {"dtype": "object", "shape": [3]}}).dtype == object
    found = read({"array": ARRAY}, bytes(8))
    found[0] = 1  # what is read is the judge's own


@pytest.mark.parametrize("name", ["Tensor", "np.matrix", "", "a b", "x" * 200, "__import__('os')", 5])
def test_remote_stubs_have_a_name_and_nothing_else(name: Any) -> None:
    found = read({"other": name, "shape": "(3,)", "dtype": "float32"})
    assert type(found).__name__ == (name if name in ("Tensor", "np.matrix") else "object")
    assert (found.shape, found.dtype) == ("(3,)", "float32")
    assert not isinstance(found, np.ndarray)


@pytest.mark.parametrize(
    "told",
    [
        None,
        {},
        {"type": "X", "text": 3},
        {"type": "OutOfPages", "text": "", "ours": True, "classes": ["OutOfPages"], "pages": ["1", 2]},
        {"type": "KernelFindings", "text": "", "ours": True, "classes": ["KernelFindings"], "findings": []},
        {"type": "KernelFindings", "text": "", "ours": True, "classes": ["KernelFindings"], "findings": [{}]},
    ],
    ids=str,
)
def test_remote_nonsense_is_no_error(told: Any) -> None:
    with pytest.raises(Nonsense):
        error_of(told)


def test_remote_errors_are_of_our_classes_only_when_they_say_so() -> None:
    told = {"type": "SystemExit", "text": "0", "classes": ["SystemExit", "BaseException"], "ours": True}
    found = error_of(told)
    assert isinstance(found, SubjectRaised)
    assert str(found) == "SystemExit: 0"
    assert isinstance(error_of({**told, "classes": ["InvalidCase"], "ours": None}), SubjectRaised)
