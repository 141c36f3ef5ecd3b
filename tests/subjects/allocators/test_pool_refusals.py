"""What the kernels of the pools must refuse by themselves: the rules, and that the kernels are asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pabench.errors import DeviceFault, InvalidCase
from pabench.kernels import page_pool
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.pool import PoolAllocator, StackAllocator, TicketAllocator
from pabench.subjects.allocators.pool_refusals import hold_refusals, vain_growth, vain_release
from tests.support.allocator_support import shape_of
from tests.support.probe import DEVICE

SHAPE = shape_of(20, 4, 5, 3)
LENGTHS: Array = np.array([4, -1, 0, 12, 7])
LONG, DEAD, WRONG = page_pool.OUTGROWS, page_pool.NOT_LIVE, page_pool.WRONG


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
        ([0, 1], [1], []),
        ([9], [2**31], []),
    ],
)
def test_pool_refusals_of_growth(sequences: list[int], tokens: list[int], expected: object) -> None:
    assert vain_growth(sequences, tokens, LENGTHS, SHAPE) == expected


def test_pool_refusals_of_release() -> None:
    assert vain_release([0, 2], LENGTHS, SHAPE) == []
    assert vain_release(np.array([0, 1, 5, -1]), LENGTHS, SHAPE) == [(5, 0, WRONG), (1, 0, DEAD)]


@pytest.mark.parametrize("kind", [TicketAllocator, StackAllocator])
@pytest.mark.parametrize(
    ("ask", "last"),
    [
        (lambda a: a.append(7, 1), [WRONG]),
        (lambda a: a.append_batch([0, 3], [0, -1]), [WRONG]),
        (lambda a: a.append(0, 9), [LONG]),
        (lambda a: a.append_batch([0, 5, 9], 13), [LONG, WRONG, WRONG]),
        (lambda a: a.alloc(1, 13), [LONG]),
        (lambda a: a.free([0, 1]), [DEAD]),
        (lambda a: a.free([5]), [WRONG]),
    ],
)
def test_pool_refusals_come_from_the_kernel_too(
    kind: type[PoolAllocator],
    ask: Callable[[PoolAllocator], Any],
    last: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allocator = kind(DEVICE, SHAPE)
    for sequence, length in ((0, 4), (3, 2)):
        allocator.alloc(sequence, length)
    seen: list[list[int]] = []

    def watched(launch: Callable[..., None]) -> Callable[..., None]:
        def launch_and_look(*args: Any) -> None:
            launch(*args)
            DEVICE.synchronize()
            seen.append(DEVICE.to_host(args[-2]).tolist())

        return launch_and_look

    for name in ("extend", "free"):
        monkeypatch.setattr(page_pool, name, watched(getattr(page_pool, name)))
    before = allocator.fingerprint()
    with pytest.raises(InvalidCase):
        ask(allocator)
    assert seen == [[-1] * (SHAPE.max_seqs - len(last)) + last]
    assert allocator.fingerprint() == before


def test_pool_refusals_are_held_to_result_and_state() -> None:
    states = iter([b"before", b"after"])

    def launch(sequences: list[int], tokens: list[int]) -> Array:
        assert (sequences, tokens) == ([-1, -1, -1, -1, 6], [0, 0, 0, 0, 2])
        return np.array([-1, -1, -1, -1, WRONG])

    vain = [(6, 2, WRONG)]
    with pytest.raises(DeviceFault, match="changed the state"):
        hold_refusals("entry", vain, launch, lambda: next(states), SHAPE)
    with pytest.raises(DeviceFault, match=r"results \[-1, -1, -1, -1, 4\], must be \[-1, -1, -1, -1, 2\]"):
        hold_refusals("entry", [(6, 2, LONG)], launch, lambda: b"", SHAPE)
    hold_refusals("entry", vain * 6, launch, lambda: next(states), SHAPE)  # more than a request holds
    hold_refusals("entry", [], launch, lambda: next(states), SHAPE)
