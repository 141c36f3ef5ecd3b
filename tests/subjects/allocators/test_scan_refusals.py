"""What the scan allocator's kernels must refuse by themselves: the rules, and that the kernels are asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pabench.errors import InvalidCase
from pabench.kernels import alloc_scan
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.columns import columns_of
from pabench.subjects.allocators.scan import ScanAllocator
from pabench.subjects.allocators.scan_refusals import refused_drop, refused_fork, refused_growth
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


@pytest.mark.parametrize(
    ("ask", "code", "entry"),
    [
        (lambda a: a.append(7, 1), BAD, 4),
        (lambda a: a.append_batch([0, 3], [0, -1]), BAD, 4),
        (lambda a: a.append(0, 9), LONG, 4),
        (lambda a: a.alloc(1, 13), LONG, 4),
        (lambda a: a.free([0, 1]), DEAD, 4),
        (lambda a: a.truncate(1, 0), DEAD, 4),
        (lambda a: a.free_window(9, 0), BAD, 4),
        (lambda a: a.fork(0, 3), LIVE, 4),
    ],
)
def test_scan_refusals_come_from_the_kernel_too(
    ask: Callable[[ScanAllocator], Any], code: int, entry: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocator = ScanAllocator(DEVICE, SHAPE)
    for sequence, length in ((0, 4), (3, 2)):
        allocator.alloc(sequence, length)
    said: list[alloc_scan.Status] = []
    original = alloc_scan.read_status

    def read(state: alloc_scan.ScanState) -> alloc_scan.Status:
        said.append(original(state))
        return said[-1]

    monkeypatch.setattr(alloc_scan, "read_status", read)
    before = allocator.fingerprint()
    with pytest.raises(InvalidCase):
        ask(allocator)
    assert [(status.code, status.concerned) for status in said] == [(code, entry)]
    assert allocator.fingerprint() == before
