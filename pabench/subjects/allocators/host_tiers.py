# SPDX-License-Identifier: Apache-2.0
"""The lower tier of the host allocator: cached pages that move down and are loaded back, and pins.

A node of the prefix cache stands for its tokens in whatever tier they are, and stays while they are on their
way.  A pin is one more holder of a page, which stands in no table.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import NamedTuple

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.host_cache import Node
from pabench.subjects.allocators.host_pool import PageRing
from pabench.subjects.allocators.host_state import HostState
from pabench.subjects.allocators.results import NULL_PAGE, Hit, Prompt


class Copy(NamedTuple):
    """Pages on their way between the tiers, and what they hold."""

    nodes: list[Node]
    pages: Array
    hosts: Array
    down: bool


class HostTiers(HostState):
    """What the host allocator does with a second tier."""

    def _start(self) -> None:
        super()._start()
        self._lower = PageRing(self.shape.host_pages)
        self._stored: OrderedDict[int, Node] = OrderedDict()  # by host page, longest there first
        self._copies: deque[Copy] = deque()
        self._pins: Counter[Hit] = Counter()

    # --- state ------------------------------------------------------------------------------------------

    @property
    def returning_pages(self) -> int:
        """See ``PageAllocator``."""
        return super().returning_pages + sum(copy.pages.size for copy in self._copies)

    @property
    def pinned_pages(self) -> int:
        """See ``PageAllocator``."""
        pinned = {page for hit in self._pins for page in hit.pages}
        return len(pinned - {*self._flat.tolist()}) if pinned else 0

    @property
    def free_host_pages(self) -> int:
        """See ``PageAllocator``."""
        return self._lower.count

    @property
    def cached_host_pages(self) -> int:
        """See ``PageAllocator``."""
        return len(self._stored)

    def refcounts(self) -> Array:
        """See ``PageAllocator``."""
        counts = super().refcounts()
        for copy in self._copies:
            counts[copy.pages] = 0
        for hit, pins in self._pins.items():
            counts[list(hit.pages)] -= pins
        return counts

    def fingerprint(self) -> bytes:
        """See ``PageAllocator``."""
        copies = [(copy.pages.tolist(), copy.hosts.tolist(), copy.down) for copy in self._copies]
        parts = (self._lower.ids().tolist(), list(self._stored), copies, self._pins)
        return super().fingerprint() + repr(parts).encode()

    # --- operations -------------------------------------------------------------------------------------

    def move_down(self, pages: int) -> Array:
        """See ``PageAllocator``."""
        pages, lower = whole_number("pages", pages, low=0), self._lower
        count = min(pages, len(self._cache.unused), lower.count + len(self._stored))
        for _ in range(count - lower.count):
            self._drop(next(iter(self._stored)))
        gone = [self._cache.unused.popitem(last=False)[0] for _ in range(count)]
        nodes = [self._cache.leave(page) for page in gone]
        return self._fly(Copy(nodes, np.array(gone, np.int32), lower.take(count), True))

    def load(self, prompt: Prompt) -> Array:
        """See ``PageAllocator``."""
        wanted = []
        for node in self._cache.nodes(prompt):
            if node.page == node.host == NULL_PAGE:
                break
            if node.page == NULL_PAGE:
                wanted.append(node)
        self._admit(len(wanted))
        hosts = np.array([node.host for node in wanted], np.int32)
        for node in wanted:
            del self._stored[node.host]
            node.host = NULL_PAGE
        return self._fly(Copy(wanted, self._take(len(wanted)), hosts, False))

    def end_copy(self) -> None:
        """See ``PageAllocator``."""
        if not self._copies:
            raise InvalidCase("copies in flight", 0, "must be one at least")
        nodes, pages, hosts, down = self._copies.popleft()
        for node, page, host in zip(nodes, pages.tolist(), hosts.tolist(), strict=True):
            if down:
                if node.host != NULL_PAGE:  # it went down twice
                    self._drop(node.host)
                node.host = host
                self._stored[host] = node
            else:
                if node.page == NULL_PAGE:
                    self._cache.enter(node, page)
                self._cache.release(node)
        if not down:
            self._lower.push(hosts)
        self._come_back(pages)

    def pin(self, hit: Hit) -> None:
        """See ``PageAllocator``."""
        self._check_cached(hit)
        self._hold(hit.pages)
        self._pins[hit] += 1

    def unpin(self, hit: Hit) -> None:
        """See ``PageAllocator``."""
        if hit not in self._pins:
            raise InvalidCase("hit", hit.pages, "must be pinned")
        self._pins -= {hit: 1}
        self._give_back(np.array(hit.pages, np.int32))

    # --- parts ------------------------------------------------------------------------------------------

    def _fly(self, copy: Copy) -> Array:
        """Let a copy begin, unless it is of nothing; return its moves."""
        if copy.nodes:
            self._copies.append(copy)
        ends = (copy.pages, copy.hosts) if copy.down else (copy.hosts, copy.pages)
        return self._moves(*ends, copy.pages.size * self._page_size)

    def _drop(self, host: int) -> None:
        """A page of the lower tier holds nothing any more."""
        node = self._stored.pop(host)
        node.host = NULL_PAGE
        self._cache.release(node)
        self._lower.push(np.array([host], np.int32))

    def _check_cached(self, hit: Hit) -> None:
        if self._cache.lookup(hit.prompt)[: len(hit.pages)] != hit.pages:
            raise InvalidCase("hit", hit.pages, "must be cached still; look it up again")

    def _check_tiers_idle(self) -> None:
        if self._copies or self._pins:
            there = f"{len(self._copies)} and {self._pins.total()}"
            raise InvalidCase("copies in flight, pins", there, "must be 0 before a reset")
