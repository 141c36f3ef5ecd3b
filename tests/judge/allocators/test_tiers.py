# SPDX-License-Identifier: Apache-2.0
"""Two tiers: cached pages that move down and are loaded back, copies in flight, and pins."""

from __future__ import annotations

from typing import Any

import pytest

from pabench.errors import InvalidCase, OutOfPages, Unsupported
from pabench.judge.allocators.contents import Contents
from pabench.judge.allocators.history import HistoryCase, history_from_dict
from pabench.judge.allocators.leftovers import leftovers
from pabench.judge.allocators.model import ModelAllocator
from pabench.judge.allocators.tiers import Tiers
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.groups import KvGroup
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.host_groups import HostGroups
from pabench.subjects.allocators.results import Hit, Prompt

SHAPE = PoolShape(num_pages=4, page_size=2, max_seqs=3, max_pages_per_seq=4, host_pages=2)
ABC = Prompt(tokens=(1, 2, 3, 4, 5))
"""Two full pages and the last token."""


@pytest.fixture(params=[ModelAllocator, HostAllocator])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


def cached(pool: PageAllocator, first: int = 1, sequence: int = 0) -> Prompt:
    """Cache two pages, that nobody holds; return a prompt that begins with them."""
    tokens = tuple(range(first, first + 5))
    pool.alloc(sequence, 4)
    pool.commit(sequence, Prompt(tokens=tokens[:4]))
    pool.free([sequence])
    return Prompt(tokens=tokens)


def counts(pool: PageAllocator) -> tuple[int, ...]:
    """Free, evictable, returning and pinned pages; free and cached host pages."""
    upper = pool.free_pages, pool.evictable_pages, pool.returning_pages, pool.pinned_pages
    return (*upper, pool.free_host_pages, pool.cached_host_pages)


def test_tiers_move_down_and_back(make: Any) -> None:
    pool = make(SHAPE)
    prompt = cached(pool)
    assert counts(pool) == (2, 2, 0, 0, 2, 0)
    assert pool.move_down(9).tolist() == [[1, 0, 2], [0, 1, 2]]  # a prefix from its tail
    assert counts(pool) == (2, 0, 2, 0, 0, 0)
    assert (pool.lookup(prompt).pages, pool.load(prompt).tolist()) == ((), [])
    with pytest.raises(OutOfPages):
        pool.alloc(0, 6)
    pool.end_copy()
    assert counts(pool) == (4, 0, 0, 0, 0, 2)
    assert pool.load(prompt).tolist() == [[1, 2, 2], [0, 3, 2]]
    assert counts(pool) == (2, 0, 2, 0, 0, 0)
    assert pool.lookup(prompt).pages == ()
    pool.end_copy()
    assert counts(pool) == (2, 2, 0, 0, 2, 0)
    assert pool.lookup(prompt).pages == (2, 3)
    with pytest.raises(InvalidCase, match="copies in flight = 0: must be one at least"):
        pool.end_copy()


def test_tiers_make_room_for_the_newest(make: Any) -> None:
    pool = make(SHAPE)
    old = cached(pool)
    pool.move_down(2)
    pool.end_copy()
    new = cached(pool, 11)
    assert pool.move_down(1).shape == (1, 3)  # its tail, for which that of the old one makes room
    # what copies write to makes no room: one more fits
    assert pool.move_down(9).shape == (1, 3)
    assert pool.move_down(9).shape == (0, 3)
    pool.end_copy()
    pool.end_copy()
    assert counts(pool) == (4, 0, 0, 0, 0, 2)
    assert (len(pool.load(old)), len(pool.load(new))) == (0, 2)


def test_tiers_know_what_was_cached_again_meanwhile(make: Any) -> None:
    pool = make(SHAPE)
    prompt = cached(pool)
    pool.move_down(2)
    pool.end_copy()
    assert len(pool.load(prompt)) == 2
    cached(pool)
    pool.end_copy()
    assert counts(pool) == (2, 2, 0, 0, 2, 0)  # the pages that were loaded are of no use
    pool.move_down(2)
    cached(pool)
    pool.end_copy()
    pool.move_down(2)  # a second time: both host pages are full, and make room
    pool.end_copy()
    assert counts(pool) == (4, 0, 0, 0, 0, 2)


def test_tiers_pin_is_one_more_holder(make: Any) -> None:
    pool = make(SHAPE)
    hit = pool.lookup(cached(pool))
    for _ in range(2):
        pool.pin(hit)
    assert counts(pool) == (2, 0, 0, 2, 2, 0)
    assert (pool.evict(9), pool.move_down(9).tolist()) == ((), [])
    pool.adopt(1, hit)
    assert counts(pool) == (2, 0, 0, 0, 2, 0)
    assert pool.refcounts().tolist() == [1, 1, 0, 0]
    pool.truncate(1, 3)
    grant = pool.append(1, 1)
    assert grant.copies.tolist() == [[1, 2, 1]]  # what is pinned is not written to
    pool.free([1])
    pool.unpin(hit)
    assert counts(pool) == (2, 0, 0, 2, 2, 0)
    with pytest.raises(InvalidCase, match="copies in flight, pins = '0 and 1': must be 0 before a reset"):
        pool.reset()
    assert leftovers(pool) == (
        "invariant 13: 2 free and 0 evictable pages, 2 pinned, after every sequence has ended, "
        "must be 4 together"
    )
    pool.unpin(hit)
    assert counts(pool) == (2, 2, 0, 0, 2, 0)
    with pytest.raises(InvalidCase, match="must be pinned"):
        pool.unpin(hit)
    pool.evict(2)
    with pytest.raises(InvalidCase, match="must be cached still; look it up again"):
        pool.pin(hit)


def test_tiers_refuse_to_load_below_the_watermark(make: Any) -> None:
    pool = make(
        PoolShape(num_pages=3, page_size=2, max_seqs=3, max_pages_per_seq=4, host_pages=2, reserve_pages=2)
    )
    pool.alloc(0, 0)
    pool.append(0, 4)
    pool.commit(0, Prompt(tokens=(1, 2, 3, 4)))
    pool.free([0])
    pool.move_down(2)
    pool.end_copy()
    before = pool.fingerprint()
    with pytest.raises(OutOfPages):
        pool.load(ABC)
    assert pool.fingerprint() == before


def test_tiers_are_refused_where_there_are_none() -> None:
    with pytest.raises(InvalidCase, match="host_pages = 2: must be 0 where there are groups"):
        PoolShape(
            num_pages=4,
            page_size=2,
            max_seqs=1,
            max_pages_per_seq=1,
            host_pages=2,
            groups=(KvGroup(page_size=2),),
        )
    with pytest.raises(Unsupported, match="host-groups: host_pages = 2: has one tier, must be 0"):
        HostGroups(SHAPE)


def test_tiers_keep_the_ids_of_histories_without() -> None:
    case = HistoryCase(shape=SHAPE, operations=(("move_down", {"pages": 1}), ("unpin", {"place": 0})))
    assert history_from_dict(case.to_dict()) == case
    assert case.to_dict()["shape"]["host_pages"] == 2
    plain = HistoryCase(
        shape=PoolShape(num_pages=4, page_size=2, max_seqs=3, max_pages_per_seq=4), operations=()
    )
    assert plain.to_dict()["shape"].keys().isdisjoint({"host_pages", "groups"})


def judged() -> Tiers:
    return Tiers(Contents(SHAPE.kv_groups, 2, 4, 0, 2))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[0, 2, 2]], "names host page 2 twice or outside of its tier"),
        ([[0, 0, 2], [0, 1, 2]], "names page 0 twice or outside of its tier"),
        ([[3, 1, 2]], "names page 3, which another copy in flight reads or writes"),
        ([[0, 0, 2]], "names host page 0, which another copy in flight reads or writes"),
        ([[1, 1, 2]], "names page 1, which is pinned"),
        ([[0, 1, 1]], "copies 1 slots of a page of 2"),
    ],
)
def test_tiers_clash_is_named(rows: list[list[int]], said: str) -> None:
    tiers, hit = judged(), Hit(prompt=ABC, pages=(1,))
    assert tiers.done("pin", {}, (None, None), (hit, hit)) is None
    assert tiers.done("move_down", {"pages": 1}, ([[3, 0, 2]], [[3, 0, 2]]), (hit, hit)) is None
    assert (
        tiers.done("move_down", {"pages": 1}, (rows, rows), (hit, hit)) == f"invariant 19: move_down {said}"
    )


def test_tiers_broken_is_named() -> None:
    tiers, hit = judged(), Hit(prompt=ABC, pages=(1,))
    table = HostAllocator(SHAPE).block_table()
    tiers.done("pin", {}, (None, None), (hit, hit))
    tiers.done("load", {"tokens": 3}, ([[0, 3, 2]], [[0, 3, 2]]), (hit, hit))
    assert tiers.broken(table, set()) is None
    assert tiers.broken(table, {1}) == "invariant 19: page 1 is freed, which is pinned"
    table[0, 0] = 3
    assert tiers.broken(table, set()) == (
        "invariant 19: page 3 is granted, which a copy in flight reads or writes"
    )
    tiers.flights.clear()
    tiers.contents.start(0, 1, "", "")
    tiers.contents.write(0, [2])
    assert tiers.broken(table, set()) == "invariant 19: page 1 is written to, which is pinned"
    wrong = tiers.done("load", {"tokens": 3}, ([], [[0, 3, 2]]), (hit, hit))
    assert wrong == "load {'tokens': 3} moves 0 pages, must move 1"
