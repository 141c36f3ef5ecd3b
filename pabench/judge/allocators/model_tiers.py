# SPDX-License-Identifier: Apache-2.0
"""The reference model's two tiers: cached pages that move down and are loaded back, and pins."""

from __future__ import annotations

import numpy as np

from pabench.errors import InvalidCase
from pabench.judge.allocators.model_cache import ModelCache
from pabench.judge.allocators.model_state import Copy
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.results import Hit, Prompt


class ModelTiers(ModelCache):
    """A prefix on its way is in neither tier."""

    def move_down(self, pages: int) -> Array:
        """See ``PageAllocator``."""
        pages = whole_number("pages", pages, low=0)
        room = len(self._free_host) + len(self._below)
        copies = []
        for _ in range(min(pages, len(self._evictable), room)):
            page = self._next_out()
            key = next(key for key, cached in self._cache.items() if cached == page)
            self._forget(page)
            if not self._free_host:
                self._free_host.append(self._below.pop(next(iter(self._below))))
            copies.append(Copy(key, page, self._free_host.popleft(), down=True))
        return self._fly(copies)

    def load(self, prompt: Prompt) -> Array:
        """See ``PageAllocator``."""
        longest = max(0, len(prompt.tokens) - 1) // self.shape.page_size
        wanted = []
        for key in self._keys(prompt, 0)[:longest]:
            if key in self._cache:
                continue
            if key not in self._below:
                break
            wanted.append(key)
        self._admit(len(wanted))
        return self._fly([Copy(key, self._take(), self._below.pop(key), down=False) for key in wanted])

    def end_copy(self) -> None:
        """See ``PageAllocator``."""
        if not self._copies:
            raise InvalidCase("copies in flight", 0, "must be one at least")
        copies = self._copies.popleft()
        for key, page, host, down in copies:
            if not down:
                self._free_host.append(host)
                self._cache.setdefault(key, page)
                continue
            if key in self._below:
                self._free_host.append(self._below.pop(key))
            self._below[key] = host
        self._come_back([copy.page for copy in copies])

    def pin(self, hit: Hit) -> None:
        """See ``PageAllocator``."""
        self._still(hit)
        self._hold(hit.pages)
        self._pins[hit] += 1

    def unpin(self, hit: Hit) -> None:
        """See ``PageAllocator``."""
        if hit not in self._pins:
            raise InvalidCase("hit", hit.pages, "must be pinned")
        self._pins -= {hit: 1}
        self._give_back(hit.pages)

    def _fly(self, copies: list[Copy]) -> Array:
        if copies:
            self._copies.append(copies)
        size = self.shape.page_size
        rows = [(page, host, size) if down else (host, page, size) for _, page, host, down in copies]
        return np.array(rows, np.int32).reshape(-1, 3)
