# SPDX-License-Identifier: Apache-2.0
"""What is not back at the end is named, and a history that loses it is made short."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pabench.judge.allocators.history import shortest_history
from pabench.judge.allocators.leftovers import leftovers, leftovers_after_ending
from pabench.judge.allocators.operations import Operation
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.results import Prompt

SHAPE = PoolShape(num_pages=8, page_size=4, max_seqs=4, max_pages_per_seq=8, swap_pages=4)


class Loses(HostAllocator):
    """Keeps a page of every sequence of more than two pages."""

    def free(self, sequences: Sequence[int]) -> None:
        long = any(self._lengths[sequence] > 8 for sequence in sequences)
        super().free(sequences)
        if long:
            self._ring.take(1)


def test_leftovers_of_a_right_allocator_are_none() -> None:
    host = HostAllocator(SHAPE)
    assert leftovers(host) is None
    host.alloc(0, 9)
    host.commit(0, Prompt(tokens=tuple(range(8))))
    host.alloc(1, 4)
    host.swap_out(1)
    host.free([0])
    assert leftovers(host) == "sequence 1 still swapped out at the end"
    host.free([1])
    assert host.evictable_pages == 2
    assert leftovers(host) is None


def test_leftovers_names_what_is_there() -> None:
    host = HostAllocator(SHAPE)
    host.alloc(0, 9)
    host.alloc(2, 1)
    assert leftovers(host) == "sequence 0 and 1 more still live at the end"
    assert leftovers_after_ending(host) is None


@pytest.mark.parametrize("count", [1, 3])
def test_leftovers_shorten_a_history(count: int) -> None:
    given = {"final_tokens": None, "stream": 0, "adapter": "", "salt": ""}
    steps: list[Operation] = []
    for turn in range(20):
        steps.append(("alloc", {"sequence": turn % 4, "tokens": 12 if turn == 10 else 3, **given}))
        steps += [("free", {"sequences": [turn % 4]})] * (turn % count == 0 or turn == 10)
    lost = Loses(SHAPE)
    lost.alloc(0, 12)
    lost.free([0])
    assert leftovers(lost) == (
        "invariant 13: 7 free and 0 evictable pages after every sequence has ended, must be 8 together"
    )

    def new(shape: PoolShape) -> PageAllocator:
        return Loses(shape)

    case = shortest_history(SHAPE, steps, new, rounds=100, wrong=leftovers_after_ending)
    assert case is not None
    assert [name for name, _ in case.operations][:1] == ["alloc"]
    assert len(case.operations) <= 2
    assert case.operations[0][1]["tokens"] == 12
