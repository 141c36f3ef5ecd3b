# SPDX-License-Identifier: Apache-2.0
"""What some engines do otherwise with cached pages, on the host: TensorRT-LLM's ways.

A hit goes on within a page, whose beginning is copied; a fork copies its last page at once; pages leave the
cache by priority, which may end after a time.
"""

from __future__ import annotations

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator
from pabench.subjects.allocators.cache_operations import DEFAULT_PRIORITY
from pabench.subjects.allocators.capabilities import OPERATIONS, TIER_OPERATIONS, Capabilities
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.host_cache import Node, PrefixCache, Words
from pabench.subjects.allocators.host_grants import NO_COPIES
from pabench.subjects.allocators.results import NULL_PAGE, Hit, Prompt


class RetainingCache(PrefixCache):
    """A prefix cache that knows what its pages are worth, and what they begin with."""

    def __init__(self, num_pages: int, page_size: int, hash_bits: int) -> None:
        super().__init__(num_pages, page_size, hash_bits)
        self.now = 0
        self._worth: dict[int, tuple[int, int | None]] = {}  # priority of a page, and when it ends

    def retain(self, prompt: Prompt, priority: int, seconds: int | None) -> None:
        """See ``PageAllocator``; the page that holds the last token counts, too."""
        until = None if seconds is None else self.now + seconds
        for node in self.nodes(prompt, len(prompt.tokens)):
            if node.page != NULL_PAGE:
                self._worth[node.page] = priority, until

    def priority(self, page: int) -> int:
        """Return the priority that a page has now."""
        priority, until = self._worth.get(page, (DEFAULT_PRIORITY, None))
        return DEFAULT_PRIORITY if until is not None and until <= self.now else priority

    def leave(self, page: int) -> Node:
        """See ``PrefixCache``."""
        self._worth.pop(page, None)
        return super().leave(page)

    def evict(self, count: int) -> list[int]:
        """See ``PrefixCache``; those of the lowest priority go first."""
        pages = sorted(self.unused, key=self.priority)[:count]
        for page in pages:
            del self.unused[page]
            self.forget(page)
        return pages

    def begun(self, prompt: Prompt, pages: int) -> dict[int, int]:
        """Return how many tokens the pages behind the first ``pages`` of a prompt share with what follows.

        Cost: all cached pages.
        """
        nodes = list(self.nodes(prompt))[:pages]
        parent = nodes[-1] if nodes else self.root(prompt)
        followers = [(page, node.tokens) for page, node in self._node.items() if node.parent is parent]
        first = pages * self._page_size
        most = min(self._page_size, len(prompt.tokens) - 1 - first)
        return {page: self._common(tokens, prompt, first, most) for page, tokens in followers}

    def state(self) -> bytes:
        """See ``PrefixCache``."""
        return super().state() + repr((self.now, sorted(self._worth.items()))).encode()

    def _common(self, words: Words, prompt: Prompt, first: int, most: int) -> int:
        size, count = self._page_size, max(most, 0)
        while count:
            shown = [(at, min(n, count - at), *rest) for at, n, *rest in words[size:] if at < count]
            same = words[:count] == prompt.tokens[first : first + count]
            if same and shown == list(prompt.images_in(first, first + count)):
                break
            count -= 1
        return count


class HostReuse(HostAllocator):
    """Grants the ids of the reference model."""

    name = "host-reuse"
    capabilities = Capabilities(
        operations=frozenset(OPERATIONS) - {"defragment", *TIER_OPERATIONS},
        watermark=True,
        images=True,
        partial=True,
        forks="copied",
    )

    def _start(self) -> None:
        super()._start()
        shape = self.shape
        self._cache = self._retaining = RetainingCache(shape.num_pages, shape.page_size, shape.hash_bits)
        self._cached = self._cache.cached

    # not offered: there is one tier, and what pages are worth stays with them
    defragment = PageAllocator.defragment
    move_down, load, end_copy = PageAllocator.move_down, PageAllocator.load, PageAllocator.end_copy
    pin, unpin = PageAllocator.pin, PageAllocator.unpin

    def fork(self, parent: int, child: int) -> Array:
        """See ``PageAllocator``; the last page of the child is its own."""
        parent, child = self._live(parent, "parent"), self._new(child, "child")
        begun = self._lengths.item(parent) % self._page_size
        if begun:
            self._admit(1)
        super().fork(parent, child)
        if not begun:
            return NO_COPIES
        row = self._row(child)
        shared = row[-1:].copy()
        row[-1:] = self._take(1)
        self._unshare(shared)
        return np.array([[shared[0], row[-1], begun]], np.int32)

    def lookup(self, prompt: Prompt) -> Hit:
        """See ``PageAllocator``."""
        pages = self._cache.lookup(prompt)
        begun = self._retaining.begun(prompt, len(pages))
        page = max(begun, key=lambda page: begun[page], default=NULL_PAGE)
        if not begun.get(page):
            return Hit(prompt=prompt, pages=pages)
        return Hit(prompt=prompt, pages=pages, part_of=page, part=begun[page])

    def adopt(self, sequence: int, hit: Hit) -> Array:
        """See ``PageAllocator``."""
        if not hit.part and hit.part_of == NULL_PAGE:
            super().adopt(sequence, hit)
            return NO_COPIES
        sequence = self._new(sequence)
        self._check_cached(hit)
        if not 0 < hit.part <= self._retaining.begun(hit.prompt, len(hit.pages)).get(hit.part_of, 0):
            raise InvalidCase("hit", (hit.part_of, hit.part), "must be cached still; look it up again")
        full = len(hit.pages)
        tokens = full * self._page_size + hit.part
        self.check_length(sequence, tokens)
        self._hold(hit.pages, more=1)
        row = self._table[sequence]
        row[:full], row[full : full + 1] = hit.pages, self._take(1)
        self._lengths[sequence] = tokens
        return np.array([[hit.part_of, row[full], hit.part]], np.int32)

    def retain(self, prompt: Prompt, priority: int, seconds: int | None) -> None:
        """See ``PageAllocator``."""
        priority = whole_number("priority", priority, low=0, high=100)
        seconds = None if seconds is None else whole_number("seconds", seconds, low=1)
        self._retaining.retain(prompt, priority, seconds)

    def pass_time(self, seconds: int) -> None:
        """See ``PageAllocator``."""
        self._retaining.now += whole_number("seconds", seconds, low=0)
