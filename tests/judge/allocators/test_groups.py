# SPDX-License-Identifier: Apache-2.0
"""KV groups: layers that keep different parts of a sequence, on pages of one pool."""

from __future__ import annotations

from typing import Any

import pytest

from pabench.errors import InvalidCase, OutOfPages, Unsupported
from pabench.judge.allocators.history import HistoryCase, history_from_dict
from pabench.judge.allocators.model import ModelAllocator
from pabench.judge.allocators.windows import pages_unseen
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.allocators.groups import KvGroup
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.host_groups import HostGroups
from pabench.subjects.allocators.results import Prompt
from pabench.subjects.allocators.scan import ScanAllocator
from tests.support.probe import DEVICE

FULL, WINDOW, STATE = (
    KvGroup(page_size=4),
    KvGroup(kind="window", page_size=2, window=3),
    KvGroup(kind="state", page_size=4),
)
ABC = tuple(range(40, 80))


def shape_of(*groups: KvGroup, pages: int = 12, width: int = 6, **more: Any) -> PoolShape:
    return PoolShape(num_pages=pages, page_size=4, max_seqs=3, max_pages_per_seq=width, groups=groups, **more)


def on_device(shape: PoolShape) -> ScanAllocator:
    return ScanAllocator(DEVICE, shape)


@pytest.fixture(params=[ModelAllocator, HostGroups, on_device])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[ModelAllocator, HostGroups])
def caches(request: pytest.FixtureRequest) -> Any:
    """Those that cache and swap."""
    return request.param


def rows(pool: PageAllocator, sequence: int) -> list[list[int]]:
    """The pages of a sequence, group by group."""
    pages, parts, tokens = list(pool.pages(sequence)), [], pool.length(sequence) or 0
    for group in pool.shape.kv_groups:
        count = -(-tokens // group.page_size)
        parts.append(pages[:count])
        pages = pages[count:]
    return parts


def test_groups_keep_what_the_next_query_sees(make: Any) -> None:
    pool = make(shape_of(FULL, WINDOW, STATE))
    grant = pool.alloc(0, 5)
    # groups in their order, each with pages of its own size: 2, 3 and 2 of them
    assert rows(pool, 0) == [[0, 1], [2, 3, 4], [5, 6]]
    assert grant.slots.tolist() == [0, 1, 2, 3, 4, *range(4, 9), *range(20, 25)]
    grant = pool.append(0, 1)
    # token 5 sees tokens 3, 4 and 5 in the window; the state is that of token 4
    assert rows(pool, 0) == [[0, 1], [-1, 3, 4], [-1, 6]]
    assert grant.slots.tolist() == [5, 9, 25]
    assert pool.free_pages == 12 - 5


def test_groups_grant_what_a_window_gives_up_in_the_same_call(make: Any) -> None:
    pool = make(shape_of(WINDOW, pages=3))
    pool.alloc(0, 6)
    assert pool.append(0, 1).slots.tolist() == [0]
    assert rows(pool, 0) == [[-1, -1, 2, 0]]
    with pytest.raises(OutOfPages, match="2"):
        pool.append(0, 5)
    assert rows(pool, 0) == [[-1, -1, 2, 0]]


def test_groups_grant_no_page_that_a_step_in_flight_may_read(make: Any) -> None:
    pool = make(shape_of(WINDOW, pages=3))
    pool.alloc(0, 6)
    pool.begin_step()
    with pytest.raises(OutOfPages):
        pool.append(0, 1)
    pool.end_step()
    assert pool.append(0, 1).slots.tolist() == [0]


def test_groups_hit_where_every_group_has_what_the_next_query_needs(caches: Any) -> None:
    pool = caches(shape_of(FULL, WINDOW, STATE, pages=14))
    pool.alloc(0, 8)
    pool.commit(0, Prompt(tokens=ABC[:8]))
    # of the window the page of tokens 6 and 7, of the state what token 7 left
    assert pool.lookup(Prompt(tokens=ABC[:9])).pages == (0, 1, -1, -1, -1, 5, -1, 7)
    assert pool.lookup(Prompt(tokens=ABC[:8])).pages == (0, -1, 3, 6)
    pool.free([0])
    # each group lets the end of its prefix go first: of the full one that leaves the first page
    assert pool.evict(1) == (1,)
    assert pool.lookup(Prompt(tokens=ABC[:9])).pages == (0, -1, 3, 6)
    pool.adopt(1, pool.lookup(Prompt(tokens=ABC[:9])))
    assert (rows(pool, 1), pool.length(1)) == ([[0], [-1, 3], [6]], 4)
    assert pool.append(1, 1).slots.tolist()[0] == 8 * 4
    pool.evict(9)
    with pytest.raises(InvalidCase, match="look it up again"):
        pool.adopt(
            2, pool.lookup(Prompt(tokens=ABC[:9])).__class__(prompt=Prompt(tokens=ABC[:9]), pages=(0,))
        )


def test_groups_refuse_to_rewind_a_state_or_to_cut_behind_a_window(make: Any) -> None:
    pool = make(shape_of(FULL, STATE))
    pool.alloc(0, 5)
    pool.truncate(0, 5)
    with pytest.raises(InvalidCase, match="a state cannot be rewound"):
        pool.truncate(0, 4)
    pool = make(shape_of(FULL, WINDOW))
    pool.alloc(0, 8)
    pool.append(0, 1)
    # tokens 0 to 5 are gone from the window, of which the query behind 7 tokens sees token 5
    with pytest.raises(InvalidCase, match="length = 7: must be at least 8"):
        pool.truncate(0, 7)
    pool.truncate(0, 8)
    with pytest.raises((InvalidCase, Unsupported)):
        pool.free_window(0, 2)


def test_groups_copy_the_state_of_a_fork(make: Any) -> None:
    pool = make(shape_of(FULL, STATE))
    pool.alloc(0, 5)
    pool.fork(0, 1)
    assert pool.append(1, 1).copies.tolist() == [[1, 4, 1], [3, 5, 1]]
    assert rows(pool, 1) == [[0, 4], [-1, 5]]
    assert rows(pool, 0) == [[0, 1], [2, 3]]


def test_groups_refuse_a_commit_as_a_whole(caches: Any) -> None:
    pool = caches(shape_of(FULL, WINDOW))
    pool.alloc(0, 4)
    pool.commit(0, Prompt(tokens=ABC[:2]))
    before = pool.fingerprint()
    with pytest.raises(InvalidCase, match="committed with other tokens"):
        pool.commit(0, Prompt(tokens=ABC[9:13]))
    assert pool.fingerprint() == before


def test_groups_swap_with_their_own_pages(caches: Any) -> None:
    pool = caches(shape_of(FULL, WINDOW, swap_pages=8))
    pool.alloc(0, 5)
    moves = [[0, 0, 4], [1, 1, 1], [2, 2, 2], [3, 3, 2], [4, 4, 1]]
    assert pool.swap_out(0).tolist() == moves
    assert pool.swap_in(0)[:, 2].tolist() == [4, 1, 2, 2, 1]


def test_groups_of_the_device_refuse_whole_and_keep_what_they_had() -> None:
    """Windows slide only if the growth fits; a batch in mode ``prefix`` goes without groups."""
    pool = on_device(shape_of(FULL, WINDOW, pages=8))
    pool.alloc(0, 6)
    pool.alloc(1, 4)
    before = pool.fingerprint()
    # the window of sequence 0 would give back two pages, that of sequence 1 one
    with pytest.raises(OutOfPages, match="6 pages needed, 3 available"):
        pool.append_batch([0, 1], [6, 2])
    assert pool.fingerprint() == before
    assert pool.append_batch([0, 1], [2, 1]).slots.tolist()
    assert ScanAllocator(DEVICE, shape_of(), batch_mode="prefix").capabilities.groups == frozenset()
    with pytest.raises(Unsupported, match="groups of kind full"):
        ScanAllocator(DEVICE, shape_of(FULL), batch_mode="prefix")


def test_groups_unseen_pages_by_hand() -> None:
    assert [pages_unseen(WINDOW, length) for length in range(8)] == [0, 0, 0, 0, 1, 1, 2, 2]
    assert [pages_unseen(STATE, length) for length in range(10)] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert pages_unseen(FULL, 100) == 0
    assert pages_unseen(KvGroup(kind="window", page_size=2, window=1), 4) == 2


def test_groups_are_refused_where_they_do_not_fit() -> None:
    with pytest.raises(
        InvalidCase, match="page_size of group 1 = 3: must divide the page_size of the pool, 4"
    ):
        shape_of(FULL, KvGroup(page_size=3))
    with pytest.raises(InvalidCase, match="window of a group of kind full"):
        KvGroup(page_size=4, window=2)
    with pytest.raises(InvalidCase, match="window of a group of kind window"):
        KvGroup(kind="window", page_size=4)
    with pytest.raises(Unsupported, match="host: groups of kind full: keeps none"):
        HostAllocator(shape_of(FULL))
    with pytest.raises(InvalidCase, match="mode any in order fifo': must be mode all"):
        Capabilities(operations=frozenset({"alloc"}), batch_mode="any", groups=frozenset({"full"}))


def test_groups_of_a_history_are_written_and_read() -> None:
    case = HistoryCase(shape=shape_of(FULL, WINDOW, STATE), operations=(("free", {"sequences": [0]}),))
    assert history_from_dict(case.to_dict()) == case
    plain = HistoryCase(shape=shape_of(), operations=()).to_dict()
    assert "groups" not in plain["shape"]
    assert history_from_dict(plain).shape.groups == ()
    broken = case.to_dict()
    broken["shape"]["groups"] = [{"kind": "full"}]
    with pytest.raises(InvalidCase, match=r"history.shape.groups = .* must have the fields"):
        history_from_dict(broken)
