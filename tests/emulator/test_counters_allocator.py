# SPDX-License-Identifier: Apache-2.0
"""Steps of the scan allocator, counted: no atomic operation but a turn a block, and work that is spread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pabench.device.counters import LOADS, SHARED, Counters, Totals
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


def decode_step(max_seqs: int, *, tokens: int = 1, blocks: int = 1) -> Counters:
    """Counters of a step that adds some tokens to each of ``max_seqs`` sequences, in pages that have room."""
    device = counting_device()
    sizes: Any = {"num_pages": max_seqs, "page_size": PAGE_SIZE, "max_seqs": max_seqs, "max_pages_per_seq": 2}
    state = alloc_scan.new_state(device, **sizes, blocks=blocks)
    everyone, more = np.arange(max_seqs, dtype=np.int32), np.full(max_seqs, tokens, np.int32)
    slots: Any = device.empty((max_seqs * tokens,), np.dtype(np.int64))
    for _ in range(2):
        alloc_scan.extend(state, everyone, more, slots)
    assert alloc_scan.read_status(state).tokens == max_seqs * tokens
    assert device.last_counters is not None
    return device.last_counters


def loads_of(counters: Counters, region: str) -> dict[str, int]:
    """Load requests to global memory by buffer."""
    found: dict[str, int] = {}
    for row in counters.locations:
        if row.region == region and row.event in LOADS and row.memory not in ("", SHARED):
            found[row.memory] = found.get(row.memory, 0) + row.requests
    return found


def test_counters_allocator_plans_4096_entries_in_one_pass() -> None:
    """Each of the four arrays is asked for once, the request 16 bytes a lane; nothing is read again."""
    warps = 32
    counters = decode_step(4096)
    assert loads_of(counters, "plan") == {
        "sequences": warps,
        "tokens": warps,
        "lengths": 4 * warps,
        "block_table": 4 * warps,
        "refcounts": 4 * warps,
        "cursor": 2 * warps,
    }
    totals = counters.totals(region="plan")
    # two of the sum, one when the sums are there and one when the lengths are
    assert totals.barriers == 4 * warps
    # sums over a warp by all and once more by the first: two numbers, five steps
    assert totals.collectives == {"shuffle": (warps + 1) * 2 * 5}
    # each warp leaves two sums and takes two totals, all but the first what comes before, the first sums up;
    # then the sums of the entries, and their last for the status: nothing is searched where all fit
    assert totals.shared_requests == 2 * warps + 2 * warps + 2 * (warps - 1) + 4 + 2 * 2 * warps + 2


def test_counters_allocator_plans_in_passes_of_4096() -> None:
    """A second pass has a sum of its own, and reads the request and the lengths again to write them."""
    warps = 32
    counters = decode_step(4097)
    loads = loads_of(counters, "plan")
    assert counters.totals(region="plan").barriers == 6 * warps
    assert loads["block_table"] == loads["refcounts"] == 2 * 4 * warps
    # the last entry stands alone: it is read by itself, and its warp leaves the other three out
    assert loads["sequences"] == loads["tokens"] == 2 * (warps + 1)
    assert loads["lengths"] == 2 * (4 * warps + 1)


def test_counters_allocator_searches_in_shared_memory() -> None:
    """Of the sums in global memory a block reads one pass; none if it wrote them, or has nothing to do."""
    warps = 8
    read = ("sequences", "tokens", "lengths", "plan", "block_table")
    one_token = decode_step(32 * warps, blocks=2)
    assert loads_of(one_token, "spread") == {"header": 2 * 4 * warps} | dict.fromkeys(read, warps)
    two_tokens = decode_step(32 * warps, tokens=2, blocks=2)
    fetched = dict.fromkeys(("page_ends", "token_ends"), 2 * warps // 4)  # four of them a lane, in two loads
    assert loads_of(two_tokens, "spread") == {"header": 2 * 4 * warps, **fetched} | dict.fromkeys(
        read, 2 * warps
    )
