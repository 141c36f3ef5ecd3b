# SPDX-License-Identifier: Apache-2.0
"""The baselines that paging replaced: what they claim, where it lies, and what that wastes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pabench.errors import OutOfPages
from pabench.subjects.allocators.arenas import Buddies, FirstFit
from pabench.subjects.allocators.results import MemorySplit
from pabench.subjects.registry import load_allocator
from tests.selftest.test_kill_allocators import examine
from tests.support.allocator_support import make_allocator, shape_of
from tests.support.probe import DEVICE

NAMES = ["contiguous", "buddy", "oracle-length", "buddy-max", "buddy-oracle"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", ["allocator-invariants", "allocator-decode"])
@pytest.mark.slow
def test_reserving_allocators_pass_the_suite(name: str, check: str) -> None:
    notebook = examine(check, load_allocator(name))
    assert notebook.outcome is None
    assert notebook.cases >= 10


@pytest.mark.parametrize(
    ("name", "split"),
    [
        # 10 tokens of 13 in the end, on a pool of 20 pages of 4: rows of 8 pages
        ("contiguous", MemorySplit(tokens=10, reserved=3, internal=19, external=48)),
        # 4 tokens to come for 3; the 14 claimed lie in a block of 4 pages
        ("buddy", MemorySplit(tokens=10, reserved=3, internal=1, external=66)),
        ("oracle-length", MemorySplit(tokens=10, reserved=3, internal=0, external=67)),
        ("buddy-max", MemorySplit(tokens=10, reserved=3, internal=19, external=48)),
        ("buddy-oracle", MemorySplit(tokens=10, reserved=3, internal=0, external=67)),
        # no promise: what lies behind the last token is internal
        ("host", MemorySplit(tokens=10, reserved=0, internal=2, external=68)),
    ],
)
def test_reserving_memory_split(name: str, split: MemorySplit) -> None:
    allocator = make_allocator(name, DEVICE, shape_of(20, 4, 4, 8))
    allocator.alloc(0, 8, final_tokens=13) if name != "buddy" else allocator.alloc(0, 10, final_tokens=13)
    if name != "buddy":
        allocator.append(0, 2)
    assert allocator.memory_split() == split


@pytest.mark.parametrize(
    ("name", "capacity"),
    # 12 tokens are 3 pages, which blocks make 4; a pool of 20 has blocks of 16 and 4
    [
        *(("contiguous", 2), ("buddy", 5), ("oracle-length", 6), ("host", 6)),
        *(("buddy-max", 2), ("buddy-oracle", 5)),
    ],
)
def test_reserving_capacity_is_ordered(name: str, capacity: int) -> None:
    """Sequences of 11 tokens that end at 12, on 20 pages of 4, at most 32 tokens a row."""
    allocator = make_allocator(name, DEVICE, shape_of(20, 4, 20, 8))
    for sequence in range(capacity):
        allocator.alloc(sequence, 11, final_tokens=12)
    with pytest.raises(OutOfPages):
        allocator.alloc(capacity, 11, final_tokens=12)


def test_reserving_refuses_when_free_pages_lie_apart() -> None:
    allocator = make_allocator("oracle-length", DEVICE, shape_of(6, 4, 6, 6))
    for sequence in range(6):
        allocator.alloc(sequence, 4)
    allocator.free([0, 2, 4])
    before = allocator.fingerprint()
    with pytest.raises(OutOfPages, match="2 neighbouring pages needed, 1 available"):
        allocator.alloc(0, 8)
    with pytest.raises(OutOfPages, match="5 claimed slots needed, 4 available"):
        allocator.append(1, 1)
    assert allocator.fingerprint() == before
    allocator.free([1])
    assert allocator.alloc(0, 12).slots.tolist() == list(range(12))


@pytest.mark.parametrize("make", [FirstFit, Buddies])
def test_reserving_arenas_lose_nothing(make: Any) -> None:
    rng = random.Random(2)
    for num_pages in (1, 7, 24, 32):
        arena, held = make(num_pages), list[tuple[int, int]]()
        for _ in range(300):
            if held and rng.random() < 0.5:
                arena.give(*held.pop(rng.randrange(len(held))))
            elif run := arena.take(rng.randint(1, 8)):
                held.append(run)
            pages = [page for start, size in held for page in range(start, start + size)]
            assert len(set(pages)) == len(pages)
            assert set(pages) <= set(range(num_pages))
        for run in held:
            arena.give(*run)
        assert vars(arena) == vars(make(num_pages))


def test_reserving_buddies_split_and_join() -> None:
    arena = Buddies(12)
    assert [arena.take(count) for count in (3, 1, 5, 1)] == [(8, 4), (0, 1), None, (1, 1)]
    assert arena.largest == 4
    arena.give(0, 1)
    arena.give(1, 1)
    assert arena.take(8) == (0, 8)
