# SPDX-License-Identifier: Apache-2.0
"""synccheck of the checked device: meetings that fail, values nobody gave, blocks that do not end."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from pabench.device.checked import CheckedDevice
from pabench.device.findings import Finding
from pabench.errors import InvalidCase
from tests.support.checked_probe import findings, line_of

SEEDS = range(10)


def words(count: int) -> Any:
    return np.zeros(count, np.uint32)


def one(*args: Any, **options: Any) -> Finding:
    (found,) = findings(*args, **options)
    assert found.check == "sync"
    return found


FAULTS: dict[str, tuple[tuple[Any, ...], int, str, str]] = {
    "masks_differ": ((), 5, "lane [0-4] came to ballot with mask", "ballot(threadIdx.x == 3"),
    "operations_differ": ((), 32, "came to (any|ballot) with mask 0xffffffff", ""),
    "not_in_own_mask": ((), 32, "lane 0 is not in its own mask 0xfffffffe", "void not_in_own_mask"),
    "counts_differ": ((), 96, "barrier 1: threads expect", "void counts_differ"),
    "barrier_of": ((np.uint32(3), np.uint32(33)), 32, "33 threads is not a multiple", "void barrier_of"),
}


@pytest.mark.parametrize("entry", FAULTS)
def test_checked_sync_gives_faults_of_meetings_a_place(entry: str) -> None:
    args, threads, text, line = FAULTS[entry]
    for seed in range(3):
        found = one("wrong", entry, *args, threads=threads, seed=seed)
        assert re.search(text, found.text)
        if line:
            assert found.at.place.line == line_of("wrong", line)


@pytest.mark.parametrize("seed", SEEDS)
def test_checked_sync_says_who_waits_where(seed: int) -> None:
    found = one("wrong", "barriers_apart", threads=96, seed=seed)
    assert found.text.startswith("deadlock in block (0, 0, 0); 32 of 96 threads are at barrier 1")
    assert [(p.action, p.place.line, p.thread[0]) for p in found.waiting] == [
        ("32 waiting at barrier 1", line_of("wrong", "bar_sync(1, 96)"), 0),
        ("64 waiting at barrier 2", line_of("wrong", "bar_sync(2, 96)"), 32),
    ]
    assert f"; 64 waiting at barrier 2 at wrong.cu:{found.waiting[1].place.line} by block" in str(found)
    found = one("wrong", "lane_at_barrier", threads=32, seed=seed)
    assert [(p.action, p.thread[0]) for p in found.waiting] == [
        ("31 waiting at reduce_add", 0),
        ("1 waiting at barrier 0", 5),
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_checked_sync_of_barriers_in_two_branches(seed: int) -> None:
    found = one("meetings", "two_barriers", words(64), np.uint32(1), threads=64, seed=seed)
    assert found.other is not None
    lines = {found.at.place.line, found.other.place.line}
    assert lines == {line_of("meetings", "// first call"), line_of("meetings", "// second call")}
    assert not findings("meetings", "two_barriers", words(64), np.uint32(0), threads=64, seed=seed)
    assert not findings("meetings", "one_barrier_often", words(64), threads=64, seed=seed)


def test_checked_sync_of_threads_that_returned() -> None:
    given = np.arange(100, dtype=np.uint32)
    assert not findings("blocks", "reverse", given, words(100), np.uint32(33), np.uint32(3), threads=100)


@pytest.mark.parametrize("seed", SEEDS)
def test_checked_sync_of_shuffles_from_absent_lanes(seed: int) -> None:
    found = one("meetings", "half_warp", words(64), np.uint32(1), threads=64, seed=seed)
    assert found.text == "lane 0 shuffles from lane 16, which has returned or is not there"
    assert (found.at.place.line, found.count) == (line_of("meetings", "// half warp"), 32)
    assert not findings("meetings", "half_warp", words(64), np.uint32(0), threads=64, seed=seed)


@pytest.mark.parametrize(
    ("entry", "args", "line"),
    [
        ("counts", (words(32), np.uint32(10**6)), "// counts"),
        ("meets_forever", (np.uint32(1),), "// meets"),
        ("each_for_the_other", (words(2), np.uint32(0)), "// each for the other"),
    ],
)
def test_checked_sync_ends_loops_by_their_steps(entry: str, args: tuple[Any, ...], line: str) -> None:
    found = one("meetings", entry, *args, grid=2, step_budget=20_000)
    assert found.text == "a block made 20000 steps (accesses, barriers and polls) and has not ended"
    assert found.at.place.line == line_of("meetings", line)
    # of two blocks that wait for each other the second is not run on once the first has fallen
    assert (found.at.block, found.count) == ((0, 0, 0), 1 if entry == "each_for_the_other" else 2)


def test_checked_sync_lets_a_block_make_all_its_steps() -> None:
    # 32 threads, 100 writes each; the budget ends with the step that reaches it
    assert not findings("meetings", "counts", words(32), np.uint32(100), step_budget=3201)
    assert findings("meetings", "counts", words(32), np.uint32(100), step_budget=3200)
    assert not findings("meetings", "counts", words(32), np.uint32(100), step_budget=0)


@pytest.mark.parametrize("budget", [-1, 2**64, 1.5])
def test_checked_sync_refuses_a_budget_that_is_none(budget: Any) -> None:
    with pytest.raises(InvalidCase, match="step_budget"):
        CheckedDevice(step_budget=budget)


def test_checked_sync_ends_polls_in_vain() -> None:
    found = one("meetings", "each_for_the_other", words(2), np.uint32(0), grid=2, poll_seconds=1)
    assert found.text == "polled memory for more than 1 s without end"
    assert [p.place.line for p in found.waiting] == [line_of("meetings", "// each for the other")]
    assert not findings("meetings", "each_for_the_other", words(2), np.uint32(1), grid=2, poll_seconds=1)
    # a block that waits for one that has fallen is not at fault, and not waited for
    found = one("wrong", "waits_for_the_fallen", words(1), grid=4)
    assert "33 threads is not a multiple" in found.text


@pytest.mark.parametrize("seed", range(3))
def test_checked_sync_of_a_lock(seed: int) -> None:
    count = words(1)
    assert not findings("meetings", "locked", words(1), count, grid=5, threads=64, seed=seed)
    assert count[0] == 5 * 64
