# SPDX-License-Identifier: Apache-2.0
"""State of the reference model, and the moves that its operations are made of.

Nothing is kept that can be found out: a page's reference count is counted, and a cached page is filed under
the whole prefix that it ends, so that no hash can go wrong.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pabench.errors import InvalidCase, OutOfPages
from pabench.judge.allocators.streams import cut_images
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.cache_operations import DEFAULT_PRIORITY
from pabench.subjects.allocators.results import NULL_PAGE, Hit, Image, Prompt

Key = tuple[int, str, str, tuple[int, ...], tuple[Image, ...]]
"""Group, adapter, salt, and every token and image from the start of the sequence to the end of the page."""


class Copy(NamedTuple):
    """A page on its way between the tiers: the prefix that it ends, and where it is in either."""

    key: Key
    page: int
    host: int
    down: bool


class ModelState(PageAllocator):
    """Free pages in a queue, oldest first.

    A sequence has a row in each group: those of sequence ``s`` are ``s * len(groups)`` and the following.
    Where hits are not ``all``, the cache costs nothing: pages that nobody holds stay in it, and a page beyond
    those of the pool stands for the one that a subject takes from its own cache, whichever that is.
    """

    _hits = "all"

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape)
        self._groups = shape.kv_groups
        self._start()

    def _start(self) -> None:
        self._made = self.shape.num_pages
        self._free = deque(range(self._made))
        self._free_swap = deque(range(self.shape.swap_pages))
        self._tables: dict[int, list[int]] = {}  # by row
        self._tokens: dict[int, int] = {}
        self._swapped: dict[int, tuple[int, list[list[int]]]] = {}
        self._cache: dict[Key, int] = {}
        self._duplicates: dict[int, Key] = {}  # cached pages whose prefix another one was cached for before
        self._evictable: list[int] = []  # least recently used first
        # for each step in flight, oldest first, what was given back while it was the latest, call by call
        self._steps: deque[list[list[int]]] = deque()
        self._now = 0
        self._worth: dict[int, tuple[int, int | None]] = {}  # priority of a page, and when it ends
        self._pins: Counter[Hit] = Counter()
        self._free_host = deque(range(self.shape.host_pages))
        self._below: dict[Key, int] = {}  # longest there first
        self._copies: deque[list[Copy]] = deque()  # oldest first

    # --- state ----------------------------------------------------------------------------------------

    def lengths(self) -> Array:
        """See ``PageAllocator``."""
        return np.array([self._tokens.get(i, -1) for i in range(self.shape.max_seqs)], np.int64)

    def block_table(self) -> Array:
        """See ``PageAllocator``."""
        rows = self.shape.max_seqs * len(self._groups)
        table = np.full((rows, self.shape.max_pages_per_seq), NULL_PAGE, np.int32)
        for row, pages in self._tables.items():
            table[row, : len(pages)] = pages
        return table.reshape(self.shape.max_seqs, self.shape.columns)

    @property
    def free_pages(self) -> int:
        """See ``PageAllocator``."""
        return len(self._free)

    @property
    def evictable_pages(self) -> int:
        """See ``PageAllocator``."""
        return len(self._evictable)

    @property
    def available_pages(self) -> int:
        """Pages that could be granted, the watermark left aside."""
        return len(self._free) + len(self._evictable) - (self._made - self.shape.num_pages)

    @property
    def follows(self) -> bool:
        """Whether what is cached is the subject's business: from the first on, or since pages ran short."""
        return self._hits == "any" or self._made > self.shape.num_pages

    @property
    def returning_pages(self) -> int:
        """See ``PageAllocator``."""
        copied = sum(len(copies) for copies in self._copies)
        return copied + sum(len(pages) for step in self._steps for pages in step)

    @property
    def pinned_pages(self) -> int:
        """See ``PageAllocator``."""
        pinned = {page for hit in self._pins for page in hit.pages}
        return len(pinned - {page for table in self._tables.values() for page in table} - {NULL_PAGE})

    @property
    def free_host_pages(self) -> int:
        """See ``PageAllocator``."""
        return len(self._free_host)

    @property
    def cached_host_pages(self) -> int:
        """See ``PageAllocator``."""
        return len(self._below)

    @property
    def free_swap_pages(self) -> int:
        """See ``PageAllocator``."""
        return len(self._free_swap)

    def _holders(self) -> Counter[int]:
        """How many table entries and pins hold each page."""
        held = Counter(itertools.chain.from_iterable(self._tables.values()))
        for hit, count in self._pins.items():
            held.update(page for page in hit.pages for _ in range(count))
        return held

    def refcounts(self) -> Array:
        """See ``PageAllocator``."""
        held = [page for table in self._tables.values() for page in table if page != NULL_PAGE]
        return np.bincount(np.array(held, np.int64), minlength=self.shape.num_pages).astype(np.int32)

    def swapped(self, sequence: int) -> int | None:
        """See ``PageAllocator``."""
        return self._swapped[sequence][0] if sequence in self._swapped else None

    def cached(self) -> dict[Key, int]:
        """Return the cache: prefix to page."""
        return dict(self._cache)

    def fingerprint(self) -> bytes:
        """See ``PageAllocator``."""
        parts = (self._free, self._free_swap, self._tables, self._tokens, self._swapped, self._cache)
        cached = (self._duplicates, self._evictable, self._now, self._worth, self._pins)
        tiers = (self._free_host, self._below, self._copies)
        return repr((*parts, *cached, self._steps, *tiers)).encode()

    # --- parts ----------------------------------------------------------------------------------------

    def _rows(self, sequence: int) -> range:
        """The rows of a sequence, one a group."""
        first = sequence * len(self._groups)
        return range(first, first + len(self._groups))

    def _live(self, sequence: int, field: str = "sequence") -> int:
        index = self.check_index(sequence, field)
        if index not in self._tokens:
            raise InvalidCase(field, index, "must be live")
        return index

    def _new(self, sequence: int, field: str = "sequence") -> int:
        index = self.check_index(sequence, field)
        if index in self._tokens or index in self._swapped:
            raise InvalidCase(field, index, "must not be there already")
        return index

    def _begin(self, sequence: int, tables: Sequence[list[int]], tokens: int) -> None:
        self._tables |= dict(zip(self._rows(sequence), tables, strict=True))
        self._tokens[sequence] = tokens

    def _admit(self, needed: int) -> None:
        """Raise ``OutOfPages`` unless ``needed`` pages can go and the watermark be kept."""
        available = max(0, self.available_pages - self.shape.reserve_pages)
        if needed > available:
            raise OutOfPages(needed, available)

    def _take(self) -> int:
        """The page that has been free longest, or else the evictable one that was used longest ago."""
        if not self._free and self._hits != "all":
            self._made += 1
            return self._made - 1
        return self._free.popleft() if self._free else self._evict_one()

    def _evict_one(self) -> int:
        page = self._next_out()
        self._forget(page)
        return page

    def _next_out(self) -> int:
        """Take the evictable page of the lowest priority, of these the one used longest ago."""
        places = range(len(self._evictable))
        return self._evictable.pop(min(places, key=lambda at: self._priority(self._evictable[at])))

    def _priority(self, page: int) -> int:
        priority, until = self._worth.get(page, (DEFAULT_PRIORITY, None))
        return DEFAULT_PRIORITY if until is not None and until <= self._now else priority

    def _forget(self, page: int) -> None:
        """The page leaves the cache, if it is there."""
        self._worth.pop(page, None)
        gone = [key for key, cached in self._cache.items() if cached == page]
        self._duplicates.pop(page, None)
        for key in gone:
            # another page that holds the same takes its place, the one cached first
            others = (other for other, prefix in self._duplicates.items() if prefix == key)
            heir = next(others, None)
            if heir is None:
                del self._cache[key]
            else:
                self._cache[key] = heir
                del self._duplicates[heir]

    def _end(self, sequence: int) -> None:
        del self._tokens[sequence]
        for row in self._rows(sequence):
            self._give_back(self._tables.pop(row))

    def _give_back(self, pages: Sequence[int]) -> None:
        """Pages that stand in no table any more: cached ones become evictable, the last first."""
        if not pages:
            return
        held = {page for table in self._tables.values() for page in table}
        held |= {page for hit in self._pins for page in hit.pages}
        gone = [page for page in pages if page != NULL_PAGE and page not in held]
        if self._steps:
            self._steps[-1].append(gone)
        else:
            self._come_back(gone)

    def _come_back(self, pages: Sequence[int]) -> None:
        for page in pages if self.follows else ():
            self._forget_twin(page)
        cached = {*self._cache.values(), *self._duplicates}
        self._free.extend(page for page in pages if page not in cached)
        self._evictable.extend(page for page in reversed(pages) if page in cached)

    def _forget_twin(self, page: int) -> None:
        """Of two pages that nobody holds and that hold the same, one will do."""
        keys = [key for key, cached in self._cache.items() if cached == page]
        keys += [key for known, key in self._duplicates.items() if known == page]
        if any(twin in self._evictable for key in keys for twin in self._committed(key)):
            self._forget(page)

    def _committed(self, key: Key) -> list[int]:
        """The pages that are cached for a prefix, the one that is found first."""
        others = [page for page, known in self._duplicates.items() if known == key]
        return [self._cache[key], *others] if key in self._cache else others

    def _store_back(self, stored: Sequence[Sequence[int]]) -> None:
        self._free_swap.extend(page for pages in stored for page in pages if page != NULL_PAGE)

    def _moves(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], tokens: int
    ) -> Array:
        """Copies between the pool and the swap store: source, target, slots in use."""
        moves = [
            (source, target, min(group.page_size, tokens - position * group.page_size))
            for group, here, there in zip(self._groups, sources, targets, strict=True)
            for position, (source, target) in enumerate(zip(here, there, strict=True))
            if source != NULL_PAGE
        ]
        return np.array(moves, np.int32).reshape(-1, 3)

    def _keys(self, prompt: Prompt, at: int) -> list[Key]:
        """The keys of the prompt's full pages in a group."""
        size = self._groups[at].page_size
        ends = range(size, len(prompt.tokens) + 1, size)
        names = at, prompt.adapter, prompt.salt
        return [(*names, prompt.tokens[:end], cut_images(prompt.images, end)) for end in ends]
