# SPDX-License-Identifier: Apache-2.0
"""Free page ids of the host allocator: a ring in one array, oldest first."""

from __future__ import annotations

import numpy as np

from pabench.problem.dtypes import Array


class PageRing:
    """A queue of page ids; both ends move by whole slices, whatever the size of the pool.

    Args:
        capacity: ids 0 to ``capacity - 1``, all free at first.
    """

    def __init__(self, capacity: int) -> None:
        self._ids = np.arange(capacity, dtype=np.int32)
        self._head = 0
        self.count = capacity

    def take(self, count: int) -> Array:
        """Return the ``count`` oldest ids, int32; there are as many."""
        head, end, capacity = self._head, self._head + count, self._ids.size
        self.count -= count
        if end < capacity:
            self._head = end
            return self._ids[head:end].copy()
        self._head = end - capacity
        return np.concatenate((self._ids[head:], self._ids[: end - capacity]))

    def take_one(self) -> int:
        """Return the oldest id; there is one."""
        page = self._ids.item(self._head)
        self._head = self._head + 1 if self._head + 1 < self._ids.size else 0
        self.count -= 1
        return page

    def push(self, pages: Array) -> None:
        """Put ids behind the others."""
        ids, count = self._ids, pages.size
        capacity, tail = ids.size, self._head + self.count
        if tail >= capacity:
            tail -= capacity
        end = tail + count
        if end <= capacity:
            ids[tail:end] = pages
        else:
            ids[tail:] = pages[: capacity - tail]
            ids[: end - capacity] = pages[capacity - tail :]
        self.count += count

    def hold(self, pages: Array) -> None:
        """Hold ``pages`` alone, in this order."""
        self._head, self.count = 0, pages.size
        self._ids[: pages.size] = pages

    def ids(self) -> Array:
        """Return the free ids, oldest first, int32."""
        order = (self._head + np.arange(self.count)) % max(1, self._ids.size)
        return self._ids[order]
