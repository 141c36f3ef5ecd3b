# SPDX-License-Identifier: Apache-2.0
"""What the scan allocator's kernels must refuse by themselves: the rules, and that the kernels are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pabench.errors import Unsupported
from pabench.judge.allocators.operations import Operation
from pabench.judge.allocators.refusals import (
    columns_of,
    refusal_probe,
    refused_drop,
    refused_fork,
    refused_growth,
)
from pabench.judge.allocators.trial import Trial
from pabench.kernels import alloc_scan
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.scan import ScanAllocator
from tests.support.allocator_support import shape_of
from tests.support.probe import DEVICE

SHAPE = shape_of(20, 4, 5, 3)
LENGTHS: Array = np.array([4, -1, 0, 12, 7])
BAD, LONG, DEAD, LIVE = (
    alloc_scan.BAD_VALUE,
    alloc_scan.ROW_TOO_SHORT,
    alloc_scan.NOT_LIVE,
    alloc_scan.STILL_LIVE,
)


@pytest.mark.parametrize(
    ("sequences", "tokens", "expected"),
    [
        ([0, 2], [8, 12], None),
        ([0, 2], [9, 0], (LONG, 0)),
        ([2, 3], [12, 1], (LONG, 1)),
        ([1], [12], None),  # the kernel starts it
        ([0, 5, 3], [1, 1, 1], (BAD, 1)),
        ([0, 2], [1, -1], (BAD, 1)),
        ([-1, 4], [-7, 0], None),
        ([0], [2**31 - 1], (LONG, 0)),
    ],
)
def test_scan_refusals_of_growth(sequences: list[int], tokens: list[int], expected: object) -> None:
    assert refused_growth(sequences, tokens, LENGTHS, SHAPE) == expected


@pytest.mark.parametrize(
    ("sequences", "expected"), [([0, 2], None), ([0, 1], (DEAD, 1)), ([5], (BAD, 0)), ([-1, 9], (BAD, 1))]
)
def test_scan_refusals_of_release(sequences: list[int], expected: object) -> None:
    assert refused_drop(sequences, LENGTHS, SHAPE) == expected


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [(0, 1, None), (-1, 9, None), (0, 2, LIVE), (1, 2, DEAD), (1, 9, BAD), (0, -1, BAD), (5, 1, BAD)],
)
def test_scan_refusals_of_a_fork(parent: int, child: int, expected: int | None) -> None:
    assert refused_fork(parent, child, LENGTHS, SHAPE) == (None if expected is None else (expected, 0))


def test_scan_refusals_are_asked_for_with_what_fits_a_request() -> None:
    assert columns_of(np.array([1, 2]), 3) == [[1, 2], [3, 3]]
    assert columns_of([1, 2], [3]) is None
    assert columns_of([1.5], [3]) is None
    assert columns_of([2**31], [3]) is None
    assert columns_of(3, [3]) is None


NAME = {"stream": 0, "adapter": "", "salt": ""}


def start(sequence: int, tokens: int) -> Operation:
    return "alloc", {"sequence": sequence, "tokens": tokens, "final_tokens": None, **NAME}


VAIN: list[tuple[Operation, int, int]] = [
    (("append", {"sequence": 7, "tokens": 1}), BAD, 4),
    (("append_batch", {"sequences": [0, 3], "tokens": [0, -1]}), BAD, 4),
    (("append", {"sequence": 0, "tokens": 9}), LONG, 4),
    (start(1, 13), LONG, 4),
    (("free", {"sequences": [0, 1]}), DEAD, 4),
    (("truncate", {"sequence": 1, "length": 0}), DEAD, 4),
    (("free_window", {"sequence": 9, "keep_from": 0}), BAD, 4),
    (("fork", {"parent": 0, "child": 3, "stream": 0}), LIVE, 4),
]


class Watched(ScanAllocator):
    """Keeps what its kernels answer to requests that nobody checked, and may spoil it."""

    def __init__(self, spoil: dict[str, int] | None = None) -> None:
        super().__init__(DEVICE, SHAPE)
        self.said: list[dict[str, Any]] = []
        self.spoil = spoil or {}

    def launch(self, entry: str, columns: Sequence[Sequence[int]]) -> dict[str, Any]:
        self.said.append(super().launch(entry, columns))
        return self.said[-1] | self.spoil


def begun(subject: ScanAllocator) -> Trial:
    trial = Trial(subject)
    for sequence, length in ((0, 4), (3, 2)):
        assert trial.perform(start(sequence, length)) is None
    return trial


@pytest.mark.parametrize(("operation", "code", "entry"), VAIN)
def test_scan_refusals_come_from_the_kernel_too(operation: Operation, code: int, entry: int) -> None:
    subject = Watched()
    trial = begun(subject)
    assert subject.said == []
    before = subject.fingerprint()
    assert trial.perform(operation) is None
    assert [(status["code"], status["concerned"]) for status in subject.said] == [(code, entry)]
    assert subject.fingerprint() == before


@pytest.mark.parametrize(("operation", "code", "entry"), VAIN)
@pytest.mark.parametrize("field", ["code", "concerned", "free", "pages", "served", "tokens", "copies"])
def test_scan_refusals_are_held_to_the_status(
    operation: Operation, code: int, entry: int, field: str
) -> None:
    found = begun(Watched({field: 77})).perform(operation)
    assert found is not None
    assert found.startswith("invariant 8: page_alloc_")
    assert f"{field} = 77, must be " in found


def test_scan_refusals_are_held_to_the_state() -> None:
    class Moving(Watched):
        def launch(self, entry: str, columns: Sequence[Sequence[int]]) -> dict[str, Any]:
            said = super().launch(entry, columns)
            self.truncate(3, 1)
            return said

    for operation, _, _ in VAIN:
        found = begun(Moving()).perform(operation)
        assert str(found).endswith(": refused the request, and changed the state")


def test_scan_refusals_are_asked_for_where_a_rule_is_broken_alone() -> None:
    subject = begun(ScanAllocator(DEVICE, SHAPE)).subject
    for operation in (
        ("append", {"sequence": 1, "tokens": 1}),  # the kernel would start it
        ("append_batch", {"sequences": [7, 7], "tokens": [1, 1]}),
        ("append_batch", {"sequences": [0], "tokens": [2**31]}),
        ("free", {"sequences": [0, 3]}),
        ("fork", {"parent": 0, "child": 1, "stream": 0}),
        ("reset", {}),
    ):
        assert refusal_probe(subject, operation) is None
    for operation, _, _ in VAIN:
        assert refusal_probe(HostAllocator(SHAPE), operation) is None
    with pytest.raises(Unsupported, match="scan offers no page_alloc_reset"):
        subject.launch("page_alloc_reset", [])
