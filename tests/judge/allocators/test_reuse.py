# SPDX-License-Identifier: Apache-2.0
"""Other ways with cached pages: hits within a page, forks that copy at once, priorities that end."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from pabench.errors import InvalidCase, OutOfPages
from pabench.judge.allocators.model import ModelAllocator
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.host_reuse import HostReuse
from pabench.subjects.allocators.results import Hit, Prompt

SHAPE = PoolShape(num_pages=4, page_size=4, max_seqs=4, max_pages_per_seq=4)
MODEL = partial(ModelAllocator, partial=True, forks="copied")


@pytest.fixture(params=[MODEL, HostReuse], ids=["model", "host-reuse"])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


def cache(pool: PageAllocator, *tokens: int, **more: Any) -> Prompt:
    """Cache the full pages of some tokens, that nobody holds."""
    prompt = Prompt(tokens=tokens, **more)
    pool.alloc(0, len(tokens))
    pool.commit(0, prompt)
    pool.free([0])
    return prompt


def test_reuse_hit_goes_on_within_a_page(make: Any) -> None:
    pool = make(SHAPE)
    cache(pool, 1, 2, 3, 4, 5, 6, 7, 8)
    cache(pool, 1, 2, 3, 4, 5, 9, 9, 9)  # the first page is cached already
    hit = pool.lookup(Prompt(tokens=(1, 2, 3, 4, 5, 6, 7, 0, 0)))
    assert hit == Hit(prompt=hit.prompt, pages=(0,), part_of=1, part=3)
    copies = pool.adopt(1, hit)
    assert copies.tolist() == [[1, pool.pages(1)[1], 3]]
    assert (pool.length(1), pool.pages(1)[0]) == (7, 0)
    # the last token has to be computed
    assert pool.lookup(Prompt(tokens=(1, 2, 3, 4, 5, 6, 7, 8))).part == 3
    assert pool.lookup(Prompt(tokens=(1, 2, 3, 4, 5))).part == 0
    assert pool.lookup(Prompt(tokens=(1, 2, 0))) == Hit(
        prompt=Prompt(tokens=(1, 2, 0)), pages=(), part_of=0, part=2
    )
    assert pool.lookup(Prompt(tokens=(1, 2, 0), salt="u")).part == 0
    for forged in ((1, 4), (2, 1), (1, 0), (-1, 2)):
        with pytest.raises(InvalidCase, match="must be cached still"):
            pool.adopt(2, Hit(prompt=hit.prompt, pages=(0,), part_of=forged[0], part=forged[1]))


def test_reuse_hit_within_a_page_knows_its_images(make: Any) -> None:
    pool = make(SHAPE)
    cache(pool, 1, 7, 7, 2, images=((1, 2, "cat"),))
    asked = [((1, 2, "cat"),), ((1, 1, "cat"),), ((1, 2, "dog"),), ()]
    parts = [pool.lookup(Prompt(tokens=(1, 7, 7, 0, 0), images=images)).part for images in asked]
    assert parts == [3, 2, 1, 1]


def test_reuse_fork_copies_at_once(make: Any) -> None:
    pool = make(SHAPE)
    pool.alloc(0, 6)
    assert pool.fork(0, 1).tolist() == [[1, 2, 2]]
    assert (pool.pages(0), pool.pages(1)) == ((0, 1), (0, 2))
    assert pool.append(0, 1).copies.size == 0
    pool.alloc(2, 4)
    before = pool.fingerprint()
    with pytest.raises(OutOfPages):
        pool.fork(0, 3)
    assert pool.fingerprint() == before
    assert pool.fork(2, 3).size == 0  # it has no page with room


def test_reuse_evicts_by_priority_until_its_time_is_over(make: Any) -> None:
    pool = make(SHAPE)
    low, high = cache(pool, 1, 1, 1, 1), cache(pool, 2, 2, 2, 2)
    pool.retain(low, 90, 5)
    pool.retain(high, 60, None)
    cache(pool, 3, 3, 3, 3)
    pool.pass_time(4)
    assert pool.evict(1) == (2,)
    pool.pass_time(1)
    assert pool.evict(1) == (0,)
    with pytest.raises(InvalidCase, match="priority = 101"):
        pool.retain(high, 101, None)
    with pytest.raises(InvalidCase, match="seconds = 0"):
        pool.retain(high, 1, 0)
    with pytest.raises(InvalidCase, match="seconds = -1"):
        pool.pass_time(-1)
    assert pool.evict(1) == (1,)
    cache(pool, 2, 2, 2, 2)
    cache(pool, 4, 4, 4, 4)
    assert pool.evict(1) == (3,)  # what was said of the page before is over


def test_reuse_goes_without_groups() -> None:
    with pytest.raises(InvalidCase, match=r"partial hits, copied forks = .*: go without groups"):
        Capabilities(operations=frozenset({"alloc"}), groups=frozenset({"full"}), partial=True)
    with pytest.raises(InvalidCase, match="forks = 'both'"):
        Capabilities(operations=frozenset({"alloc"}), forks="both")
    assert not HostAllocator.capabilities.partial
