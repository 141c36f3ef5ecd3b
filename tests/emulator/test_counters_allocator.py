# SPDX-License-Identifier: Apache-2.0
"""Steps of the scan allocator, counted: no atomic operation but a turn a block, and work that is spread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pabench.device.counters import Totals
from pabench.kernels import alloc_scan
from tests.support.counting import counting_device

PAGES, SEQUENCES, PAGE_SIZE, WARPS = 4096, 64, 16, 2


def counted(blocks: int, *, shared: bool = False) -> dict[str, Totals]:
    """Totals of a step that takes ``PAGES`` pages and one that gives them back."""
    device = counting_device()
    state = alloc_scan.new_state(
        device,
        num_pages=PAGES,
        page_size=PAGE_SIZE,
        max_seqs=SEQUENCES,
        max_pages_per_seq=2 * PAGES // SEQUENCES,
        blocks=blocks,
    )
    takers = SEQUENCES // 2 if shared else SEQUENCES
    everyone = np.arange(SEQUENCES, dtype=np.int32)
    some = np.where(everyone < takers, everyone, -1).astype(np.int32)
    tokens = np.full(SEQUENCES, PAGES // takers * PAGE_SIZE, np.int32)
    slots: Any = device.empty((PAGES * PAGE_SIZE,), np.dtype(np.int64))
    alloc_scan.extend(state, some, tokens, slots)
    if shared:
        children = np.where(some >= 0, some + takers, -1).astype(np.int32)
        alloc_scan.fork(state, some, children)
    alloc_scan.drop(state, everyone, everyone, alloc_scan.END)
    status = alloc_scan.read_status(state)
    assert (status.code, status.pages, status.free) == (alloc_scan.OK, PAGES, PAGES)
    return {name: counters.totals() for name, counters in device.counters.items()}


@pytest.mark.parametrize("blocks", [1, 8])
def test_counters_allocator_has_no_atomics_but_turns(blocks: int) -> None:
    turns = {"add": blocks} if blocks > 1 else {}
    found = counted(blocks)
    assert [found[name].atomics for name in (alloc_scan.EXTEND, alloc_scan.DROP, alloc_scan.PUSH)] == [
        turns
    ] * 3


def test_counters_allocator_counts_who_lets_shared_pages_go() -> None:
    """Two holders of each page: one request a warp of columns, to count and to find the last."""
    found = counted(8, shared=True)
    columns = 2 * PAGES
    assert found[alloc_scan.DROP].atomics == {"add": 8 + columns // 32, "max": columns // 32}
    assert found[alloc_scan.PUSH].atomics == {"add": 8}


def test_counters_allocator_push_is_spread_over_blocks() -> None:
    """Barriers of one block: its turn, its count, the counts before, and a sum for each 64 of its columns."""
    spread, alone = (counted(blocks)[alloc_scan.PUSH].barriers for blocks in (8, 1))
    assert spread == 8 * WARPS * (2 + 2 + 2 + 2 * PAGES // 8 // 64)
    assert alone == WARPS * (2 + 2 * PAGES // 64)


def plan_loads(sequences: int) -> int:
    """Load requests of a step that grows nobody: those of the plan alone, by one block of two warps."""
    device = counting_device()
    sizes = {"num_pages": 8, "page_size": PAGE_SIZE, "max_seqs": sequences, "max_pages_per_seq": 4}
    state = alloc_scan.new_state(device, **sizes, blocks=1)
    everyone, nothing = np.arange(sequences, dtype=np.int32), np.zeros(sequences, np.int32)
    slots: Any = device.empty((1,), np.dtype(np.int64))
    alloc_scan.extend(state, everyone, nothing, slots)
    return device.counters[alloc_scan.EXTEND].totals().load_requests


def test_counters_allocator_searches_nothing_where_all_fit() -> None:
    """A search in the sums is a load on a load, one more each time that the entries double."""
    few, more, many = (plan_loads(32 * WARPS * chunks) for chunks in (2, 4, 8))
    assert many - more == 2 * (more - few)
