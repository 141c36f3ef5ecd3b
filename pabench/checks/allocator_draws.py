# SPDX-License-Identifier: Apache-2.0
"""What histories of allocators are made of: pools, and the names that prompts are kept apart by."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations
from typing import Any

from hypothesis import strategies as st

from pabench.judge.allocators.streams import NEAR, PLACES, stream_of
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.allocators.groups import KvGroup

SMALL_PAGES = [4, 3, 2, 1, 8]
"""Pages so small that a few tokens fill them."""
PAGES = [*SMALL_PAGES, 4, 1, 16, 32, 64, 128, 256, 24]
"""Those that are served are among them."""

Space = tuple[str, str, tuple[int, ...]]
"""Adapter, salt and images of a prompt, the last as ``flat_images`` writes them."""


def small_pools(can: Capabilities, page_sizes: list[int] = PAGES) -> st.SearchStrategy[PoolShape]:
    """Pools so small that running out, sharing and recycling are frequent."""
    return st.builds(
        PoolShape,
        num_pages=st.integers(4, 16) | st.integers(1, 24),
        page_size=st.sampled_from(page_sizes),
        max_seqs=st.sampled_from([5, 3, 40]),
        max_pages_per_seq=st.sampled_from([4, 8, 6, 3, 2, 1]),
        swap_pages=st.integers(0, 10) if "swap_out" in can.operations else st.just(0),
        reserve_pages=st.sampled_from([0, 0, 1, 2]) if can.watermark else st.just(0),
        hash_bits=st.sampled_from([64, 1]) if "lookup" in can.operations else st.just(64),
    )


def tiered_pools(can: Capabilities) -> st.SearchStrategy[PoolShape]:
    """Such pools above a lower tier of one to eight pages."""
    pools, hosts = small_pools(can, SMALL_PAGES), st.sampled_from([2, 3, 4, 1, 8])
    return st.builds(lambda shape, pages: replace(shape, host_pages=pages), pools, hosts)


def grouped_pools(can: Capabilities) -> st.SearchStrategy[PoolShape]:
    """Such pools, shared by one to four groups of the kinds that are kept."""
    return small_pools(can).flatmap(lambda shape: _grouped(shape, sorted(can.groups)))


def _grouped(shape: PoolShape, kinds: list[str]) -> st.SearchStrategy[PoolShape]:
    """The pool is larger, since each group takes pages."""
    sizes = [size for size in range(1, shape.page_size + 1) if shape.page_size % size == 0]
    # mostly neighbours of the largest: a row of tiny pages ends before anything is full
    near = sizes[-3:][::-1]
    windows = [*range(1, 4), *range(max(1, shape.page_size - 1), shape.page_size + 3), 2 * shape.page_size]

    # a state forbids every cut, so that pools without one show more of windows
    mixes = [mix for count in (1, 2, 3) for mix in combinations(kinds, count)]

    def group(kind: str, size: int, window: int) -> KvGroup:
        return KvGroup(kind=kind, page_size=size, window=window if kind == "window" else 0)

    def some(mix: tuple[str, ...]) -> st.SearchStrategy[list[KvGroup]]:
        kind, size = st.sampled_from(mix), st.sampled_from([near[0], *near])
        each = st.builds(group, kind, size, st.sampled_from(windows))
        return st.lists(each, min_size=1, max_size=4)

    def shared(groups: list[KvGroup], more: int) -> PoolShape:
        return replace(
            shape,
            groups=tuple(groups),
            num_pages=shape.num_pages + more,
            swap_pages=2 * shape.swap_pages,
            max_pages_per_seq=shape.max_pages_per_seq + 3,
        )

    return st.builds(shared, st.sampled_from(mixes).flatmap(some), st.integers(0, 24))


def streams(rng: random.Random) -> list[int]:
    """Draw streams that part from the first in one run each, in ways that are near, or in several."""
    place = rng.randrange(PLACES)
    near = [rng.randint(1, NEAR) for _ in range(4)]
    digits = [(), (near[0],), (near[1],), (0, near[2]), (near[0], near[2]), (0, 0, near[3])]
    return [stream_of(chosen, place) for chosen in digits]


def spaces(rng: random.Random) -> list[Space]:
    """Draw adapters and salts, alone and together, in pairs that differ in one place or in where one ends."""
    adapter, salt = (
        rng.choice(["lora-7", "weights-01", "a/b", "é"]),
        rng.choice(["user-1", "xy", "b-007", "7"]),
    )
    other, another = _near(rng, adapter), _near(rng, salt)
    both, neither = (adapter, salt), ("", "")
    joined = [(both, (adapter, another)), (both, (other, salt)), (both, (salt, adapter))]
    joined += [(both, (adapter + salt, "")), (both, (adapter + salt[:1], salt[1:]))]
    alone = [(both, (adapter, "")), ((adapter, ""), (other, "")), (("", salt), ("", another))]
    alone += [((adapter, ""), ("", adapter)), (neither, (adapter, "")), (neither, ("", salt))]
    # no more: what is shared by nobody shows nothing
    return [(*names, ()) for names in (*rng.choice(joined), *rng.choice(alone))]


def image_spaces(rng: random.Random, page_size: int) -> list[Space]:
    """Draw prompts that differ in their images alone: in one, in its place, or in how far it goes."""
    first = rng.choice([0, 1, page_size - 1, page_size, rng.randrange(2 * page_size)])
    image = rng.randrange(2**30)
    second = first + rng.choice([1, 2, page_size, page_size + 1])
    one = (first, second - first, image)
    two = (second + rng.choice([0, 0, 1]), rng.choice([1, 2, page_size]), rng.choice([image, image ^ 1]))
    near = [
        (*one[:2], image ^ rng.choice([1, 2**8, 2**29]), *two),
        (*one, *two[:2], two[2] ^ 2),
        (*one[:2], two[2], *two[:2], image),  # each in the other's place
        (first + 1, *one[1:], two[0] + 1, *two[1:]),
        (*one, two[0], two[1] + 1, two[2]),
        one,
        (),
    ]
    chosen = [(*one, *two), *rng.sample(near, 3)]
    return [("", "", images) for images in dict.fromkeys(chosen)]


def words_of(space: Space) -> dict[str, Any]:
    """Return the fields of an operation that name a space."""
    adapter, salt, images = space
    return {"adapter": adapter, "salt": salt} | ({"images": [*images]} if images else {})


def _near(rng: random.Random, name: str) -> str:
    """A name that is nearly the same."""
    last = chr(ord(name[-1]) ^ 1)
    return rng.choice([f"{name}1", f"{name} ", f"{name}{name}", name.swapcase() + "'", name[:-1] + last])
