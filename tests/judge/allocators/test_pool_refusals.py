# SPDX-License-Identifier: Apache-2.0
"""What the kernels of the pools must refuse by themselves: the rules, and that the kernels are asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pabench.judge.allocators.operations import Operation
from pabench.judge.allocators.refusals import growth_probe, refusal_probe, release_probe
from pabench.judge.allocators.trial import Trial
from pabench.kernels import page_pool
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.pool import PoolAllocator, StackAllocator, TicketAllocator
from tests.support.allocator_support import shape_of
from tests.support.probe import DEVICE

SHAPE = shape_of(20, 4, 5, 3)
LENGTHS: Array = np.array([4, -1, 0, 12, 7])
LONG, DEAD, WRONG = page_pool.OUTGROWS, page_pool.NOT_LIVE, page_pool.WRONG


NAME = {"stream": 0, "adapter": "", "salt": ""}


def start(sequence: int, tokens: int) -> Operation:
    return "alloc", {"sequence": sequence, "tokens": tokens, "final_tokens": None, **NAME}


VAIN: list[tuple[Operation, list[int]]] = [
    (("append", {"sequence": 7, "tokens": 1}), [WRONG]),
    (("append_batch", {"sequences": [0, 3], "tokens": [0, -1]}), [WRONG]),
    (("append", {"sequence": 0, "tokens": 9}), [LONG]),
    (("append_batch", {"sequences": [0, 5, 9], "tokens": [13, 13, 13]}), [LONG, WRONG, WRONG]),
    (start(1, 13), [LONG]),
    (("free", {"sequences": [0, 1]}), [DEAD]),
    (("free", {"sequences": [5]}), [WRONG]),
]


def begun(kind: type[PoolAllocator]) -> Trial:
    trial = Trial(kind(DEVICE, SHAPE))
    for sequence, length in ((0, 4), (3, 2)):
        assert trial.perform(start(sequence, length)) is None
    return trial


@pytest.mark.parametrize(
    ("sequences", "tokens", "expected"),
    [
        ([0, 2], [8, 12], []),
        ([0, 2], [9, 0], [(0, 9, LONG)]),
        ([2, 3], [13, 1], [(2, 13, LONG), (3, 1, LONG)]),
        ([1], [12], []),  # the kernel starts it
        ([1], [13], [(1, 13, LONG)]),
        ([0, 5, 3], [1, 1, 1], [(5, 1, WRONG), (3, 1, LONG)]),
        ([0, 2], [1, -1], [(2, -1, WRONG)]),
        ([-1, 4], [-7, 0], []),
        ([0], [2**31 - 1], [(0, 2**31 - 1, LONG)]),
    ],
)
def test_pool_refusals_of_growth(sequences: list[int], tokens: list[int], expected: object) -> None:
    assert growth_probe(sequences, tokens, LENGTHS, SHAPE) == expected


def test_pool_refusals_of_release() -> None:
    assert release_probe([0, 2], LENGTHS, SHAPE) == []
    assert release_probe([0, 1, 5, -1], LENGTHS, SHAPE) == [(5, 0, WRONG), (1, 0, DEAD)]


@pytest.mark.parametrize("kind", [TicketAllocator, StackAllocator])
@pytest.mark.parametrize(("operation", "last"), VAIN)
def test_pool_refusals_come_from_the_kernel_too(
    kind: type[PoolAllocator], operation: Operation, last: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = begun(kind)
    seen: list[list[int]] = []
    launch = kind.launch

    def watched(self: PoolAllocator, entry: str, columns: Any) -> dict[str, Any]:
        said = launch(self, entry, columns)
        seen.append(said["results"])
        return said

    monkeypatch.setattr(kind, "launch", watched)
    before = trial.subject.fingerprint()
    assert trial.perform(operation) is None
    assert seen == [[-1] * (SHAPE.max_seqs - len(last)) + last]
    assert trial.subject.fingerprint() == before


@pytest.mark.parametrize("kind", [TicketAllocator, StackAllocator])
@pytest.mark.parametrize(("operation", "last"), VAIN)
def test_pool_refusals_are_held_to_result_and_state(
    kind: type[PoolAllocator], operation: Operation, last: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = begun(kind)
    right = [-1] * (SHAPE.max_seqs - len(last)) + last
    wrong = [*right[:-1], page_pool.SERVED]
    monkeypatch.setattr(kind, "launch", lambda self, entry, columns: {"results": wrong})
    found = str(trial.perform(operation))
    assert found.startswith("invariant 8: page_pool_")
    assert f"results = {wrong}, must be {right}" in found

    def moving(self: PoolAllocator, entry: str, columns: Any) -> dict[str, Any]:
        self.append(0, 1)
        return {"results": right}

    monkeypatch.setattr(kind, "launch", moving)
    assert "refused the request, and changed the state" in str(trial.perform(operation))


def test_pool_refusals_that_no_request_holds_are_not_asked() -> None:
    subject = begun(StackAllocator).subject
    for operation in (
        ("append_batch", {"sequences": [5] * 6, "tokens": [1] * 6}),  # more than a request holds
        ("free", {"sequences": [0, 3]}),
        ("truncate", {"sequence": 9, "length": 0}),
    ):
        assert refusal_probe(subject, operation) is None
    assert refusal_probe(subject, ("free", {"sequences": [5]})) is not None
