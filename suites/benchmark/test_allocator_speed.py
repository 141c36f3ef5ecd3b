# SPDX-License-Identifier: Apache-2.0
"""How long the host allocator takes.  Times are printed, never asserted.

The decode step and a list of its parts run beside each other, so that a ratio within one run can be read off;
the pools of different sizes show whether a cost depends on the pool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.results import Prompt

Note = Callable[[str, int], None]
POOLS = [2**10, 2**15, 2**20]
SEQUENCES, PAGES = 256, 1000


def pool(num_pages: int, *, max_seqs: int = SEQUENCES, width: int = 8192) -> HostAllocator:
    return HostAllocator(
        PoolShape(num_pages=num_pages, page_size=16, max_seqs=max_seqs, max_pages_per_seq=width)
    )


@pytest.mark.parametrize("cached", [False, True], ids=["plain", "prefix-cached"])
@pytest.mark.parametrize("num_pages", POOLS[1:])
def test_host_decode_step(benchmark: Any, per_unit: Note, num_pages: int, cached: bool) -> None:
    """One token for each of 256 sequences at page size 16, in one call; a page for one in 16 of them."""
    allocator, sequences = pool(num_pages), np.arange(SEQUENCES)
    for sequence in range(SEQUENCES):
        allocator.alloc(sequence, 160 + sequence % 16)
        if cached:
            allocator.commit(sequence, Prompt(tokens=(sequence,) * 160))
    benchmark.pedantic(allocator.append_batch, args=(sequences, 1), rounds=40, iterations=20, warmup_rounds=2)
    per_unit("sequence", SEQUENCES)


@pytest.mark.parametrize("num_pages", POOLS)
def test_host_alloc_and_free(benchmark: Any, per_unit: Note, num_pages: int) -> None:
    """A sequence of 1,000 pages comes and goes."""
    allocator = pool(num_pages)

    def pair() -> None:
        allocator.alloc(0, PAGES * 16)
        allocator.free((0,))

    benchmark.pedantic(pair, rounds=40, iterations=50, warmup_rounds=2)
    per_unit("page", PAGES)


@pytest.mark.parametrize("num_pages", POOLS)
def test_host_append(benchmark: Any, num_pages: int) -> None:
    """One token for one sequence, alone."""
    allocator = pool(num_pages)
    allocator.alloc(0, 1)
    benchmark.pedantic(allocator.append, args=(0, 1), rounds=40, iterations=50, warmup_rounds=2)


@pytest.mark.parametrize("num_pages", POOLS)
def test_host_fork_copy_and_free(benchmark: Any, num_pages: int) -> None:
    """A sequence of 10 pages forks, the child takes a copy of the last page, and goes."""
    allocator = pool(num_pages)
    allocator.alloc(0, 155)

    def beam() -> None:
        allocator.fork(0, 1)
        allocator.append(1, 1)
        allocator.free((1,))

    benchmark.pedantic(beam, rounds=40, iterations=20, warmup_rounds=2)


@pytest.mark.parametrize("num_pages", POOLS)
def test_host_prefix_hit(benchmark: Any, per_unit: Note, num_pages: int) -> None:
    """A prompt of 50 pages is looked up, adopted and let go."""
    allocator, prompt = pool(num_pages), Prompt(tokens=tuple(range(801)))
    allocator.alloc(0, 800)
    allocator.commit(0, Prompt(tokens=prompt.tokens[:800]))

    def hit() -> None:
        allocator.adopt(1, allocator.lookup(prompt))
        allocator.free((1,))

    benchmark.pedantic(hit, rounds=20, iterations=10, warmup_rounds=2)
    per_unit("page", 50)


def test_deque_pair_for_comparison(benchmark: Any, per_unit: Note) -> None:
    """What 1,000 pages cost with a Python deque of page ids."""
    free = deque(range(2**15))

    def pair() -> None:
        free.extend([free.popleft() for _ in range(PAGES)])

    benchmark.pedantic(pair, rounds=40, iterations=20, warmup_rounds=2)
    per_unit("page", PAGES)
