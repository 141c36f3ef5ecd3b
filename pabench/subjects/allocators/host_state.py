# SPDX-License-Identifier: Apache-2.0
"""State of the host allocator, and the moves that its operations are made of.

State     free ids in a ring (one int32 array, oldest first), block table int32 (max_seqs, max_pages_per_seq),
          lengths int64, shares int32: table entries of a page beyond the first, so that taking a page that
          nobody shares writes nothing.
Cost      of an operation: its pages, and its tokens where slots are asked for; never the pool's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from pabench.errors import InvalidCase, OutOfPages
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.host_batch import within
from pabench.subjects.allocators.host_cache import PrefixCache
from pabench.subjects.allocators.host_pool import PageRing
from pabench.subjects.allocators.results import NULL_PAGE


class HostState(PageAllocator):
    """Arrays of the host allocator; operations are in the subclass."""

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape)
        self._start()

    def _start(self) -> None:
        shape = self.shape
        self._ring, self._store = PageRing(shape.num_pages), PageRing(shape.swap_pages)
        self._table = np.full((shape.max_seqs, shape.max_pages_per_seq), NULL_PAGE, np.int32)
        self._flat = self._table.reshape(-1)
        self._lengths = np.full(shape.max_seqs, -1, np.int64)
        # the entry behind those of the pages stays 0: it is where NULL_PAGE looks
        self._shares = np.zeros(shape.num_pages + 1, np.int32)
        self._shared = 0  # sum of shares
        # asked for on every call, and a property is a call
        self._max_seqs, self._max_tokens = shape.max_seqs, shape.max_tokens
        self._width, self._page_size = shape.max_pages_per_seq, shape.page_size
        self._reserve = shape.reserve_pages
        self._cache = PrefixCache(shape.num_pages, shape.page_size, shape.hash_bits)
        self._cached = self._cache.cached
        self._swapped: dict[int, tuple[int, Array]] = {}
        # for each step in flight, oldest first, what was given back while it was the latest, call by call
        self._steps: deque[list[Array]] = deque()

    # --- state ------------------------------------------------------------------------------------------

    def lengths(self) -> Array:
        """See ``PageAllocator``."""
        return self._lengths.copy()

    def block_table(self) -> Array:
        """See ``PageAllocator``."""
        return self._table.copy()

    @property
    def free_pages(self) -> int:
        """See ``PageAllocator``."""
        return self._ring.count

    @property
    def evictable_pages(self) -> int:
        """See ``PageAllocator``."""
        return len(self._cache.unused)

    @property
    def returning_pages(self) -> int:
        """See ``PageAllocator``."""
        return sum(pages.size for step in self._steps for pages in step)

    @property
    def free_swap_pages(self) -> int:
        """See ``PageAllocator``."""
        return self._store.count

    def refcounts(self) -> Array:
        """See ``PageAllocator``."""
        counts: Array = self._shares[:-1] + 1
        counts[self._ring.ids()] = 0
        counts[list(self._cache.unused)] = 0
        for step in self._steps:
            for pages in step:
                counts[pages] = 0
        return counts

    def swapped(self, sequence: int) -> int | None:
        """See ``PageAllocator``."""
        return self._swapped[sequence][0] if sequence in self._swapped else None

    def length(self, sequence: int) -> int | None:
        """See ``PageAllocator``."""
        tokens = int(self._lengths[sequence])
        return None if tokens < 0 else tokens

    def pages(self, sequence: int) -> tuple[int, ...]:
        """See ``PageAllocator``."""
        return tuple(self._row(sequence).tolist())

    def fingerprint(self) -> bytes:
        """See ``PageAllocator``."""
        arrays = (self._ring.ids(), self._store.ids(), self._table, self._lengths, self._shares)
        parts = [(q, tokens, pages.tolist()) for q, (tokens, pages) in self._swapped.items()]
        stored = repr((parts, [[pages.tolist() for pages in step] for step in self._steps]))
        return b"|".join(array.tobytes() for array in arrays) + stored.encode() + self._cache.state()

    # --- parts ------------------------------------------------------------------------------------------

    def check_index(self, sequence: int, field: str = "sequence") -> int:
        """See ``PageAllocator``; what is plainly right is not looked at twice."""
        if type(sequence) is int and 0 <= sequence < self._max_seqs:
            return sequence
        return super().check_index(sequence, field)

    def check_length(self, sequence: int, tokens: int) -> None:
        """See ``PageAllocator``."""
        if tokens > self._max_tokens:
            super().check_length(sequence, tokens)

    def _pages_of(self, tokens: int) -> int:
        return -(-tokens // self._page_size)

    def _row(self, sequence: int) -> Array:
        """The table entries of a live sequence, a view."""
        first, tokens = sequence * self._width, self._lengths.item(sequence)
        row: Array = self._flat[first : first + self._pages_of(tokens)] if tokens > 0 else self._flat[:0]
        return row

    def _live(self, sequence: int, field: str = "sequence") -> int:
        index = self.check_index(sequence, field)
        if self._lengths.item(index) < 0:
            raise InvalidCase(field, index, "must be live")
        return index

    def _new(self, sequence: int, field: str = "sequence") -> int:
        index = self.check_index(sequence, field)
        if self._lengths.item(index) >= 0 or index in self._swapped:
            raise InvalidCase(field, index, "must not be there already")
        return index

    def _check_room(self, needed: int, kept: int = 0) -> None:
        available = max(0, self._ring.count + len(self._cache.unused) - kept)
        if needed > available:
            raise OutOfPages(needed, available)

    def _admit(self, needed: int) -> None:
        """Raise ``OutOfPages`` unless ``needed`` pages can go and the watermark be kept."""
        self._check_room(needed, self.shape.reserve_pages)

    def _take(self, count: int) -> Array:
        """The oldest free pages, then the cached ones unused for longest; there are as many."""
        free = self._ring.count
        if count <= free:
            return self._ring.take(count)
        return np.concatenate((self._ring.take(free), np.array(self._cache.evict(count - free), np.int32)))

    def _unshare(self, pages: Array) -> None:
        """One table entry fewer for each entry of ``pages``, which may name one more than once."""
        np.subtract.at(self._shares, pages, 1)
        self._shared -= pages.size

    def _end(self, sequence: int) -> None:
        row = self._row(sequence)
        self._give_back(row)
        row[:] = NULL_PAGE
        self._lengths[sequence] = -1

    def _ends_plainly(self, sequence: int) -> bool:
        """End a live sequence while no page is shared, cached or in use by a step, or return False."""
        if self._shared or self._steps or len(self._cache):
            return False
        if type(sequence) is not int or not 0 <= sequence < self._max_seqs:
            return False
        first, tokens = sequence * self._width, self._lengths.item(sequence)
        pages = self._flat[first : first + self._pages_of(tokens)]
        if tokens < 0 or (tokens and pages.item(0) == NULL_PAGE):
            return False
        self._ring.push(pages)
        pages.fill(NULL_PAGE)
        self._lengths[sequence] = -1
        return True

    def _end_many(self, sequences: list[int]) -> None:
        """End live sequences while no page is shared or cached: all rows at once."""
        named = np.array(sequences, np.int64)
        counts = -(-self._lengths[named] // self._page_size)
        entries = np.repeat(named * self._width, counts) + within(counts)
        pages = self._flat[entries]
        self._flat[entries] = NULL_PAGE
        self._lengths[named] = -1
        self._ring.push(pages[pages != NULL_PAGE])

    def _give_back(self, pages: Array) -> None:
        """One table entry fewer for each page; those that stand in none any more are free or evictable.

        ``pages`` may be a view of the table, and is only read.
        """
        if pages.size and pages.item(0) == NULL_PAGE:  # a window gives up from the start
            pages = pages[pages != NULL_PAGE]
        if self._shared:
            held = self._shares[pages] > 0
            self._unshare(pages[held])
            pages = pages[~held]
        if self._steps:
            self._steps[-1].append(pages.copy())
        else:
            self._come_back(pages)

    def _come_back(self, pages: Array) -> None:
        """Pages that stand in no table, and that no step in flight uses, are free or evictable."""
        if len(self._cache):
            cached = self._cache.cached[pages]
            self._cache.unused.update(dict.fromkeys(pages[cached][::-1].tolist()))
            pages = pages[~cached]
        self._ring.push(pages)

    def _hold(self, pages: Sequence[int], *, more: int = 0) -> None:
        """Take cached pages for one more holder, with room for ``more`` pages.

        Raises:
            OutOfPages: the watermark needs them.
        """
        held = [page for page in pages if page != NULL_PAGE]
        unused = [page for page in held if page in self._cache.unused]
        self._admit(len(unused) + more)
        for page in unused:
            del self._cache.unused[page]
        nobodys = {*unused, *self._call_back(held)}
        used = np.array([page for page in held if page not in nobodys], np.int64)
        self._shares[used] += 1
        self._shared += used.size

    def _call_back(self, wanted: Sequence[int]) -> set[int]:
        """Pages among ``wanted`` that are on their way back, and no longer so."""
        called: set[int] = set()
        for step in self._steps:
            for at, pages in enumerate(step):
                mine = np.isin(pages, wanted)
                called.update(pages[mine].tolist())
                step[at] = pages[~mine]
        return called

    def _moves(self, sources: Array, targets: Array, tokens: int) -> Array:
        """Copies between the pool and the store: source, target, slots in use."""
        size = self.shape.page_size
        fill = np.minimum(size, tokens - size * np.arange(sources.size))
        moves: Array = np.stack((sources, targets, fill), axis=1).astype(np.int32)
        held: Array = moves[sources != NULL_PAGE]
        return held
