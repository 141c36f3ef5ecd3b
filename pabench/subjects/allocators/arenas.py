# SPDX-License-Identifier: Apache-2.0
"""Pages handed out in runs that lie together: what a cache without paging has to do."""

from __future__ import annotations

from typing import Protocol


class Arena(Protocol):
    """Finds room for runs of neighbouring pages."""

    def take(self, count: int) -> tuple[int, int] | None:
        """Return first page and size of a run of at least ``count`` pages, at least 1, or None."""

    def give(self, start: int, size: int) -> None:
        """Take a run back."""

    @property
    def largest(self) -> int:
        """Pages of the largest run that is free."""


class FirstFit:
    """Takes the first free run that is long enough, and exactly as much of it as is asked for."""

    def __init__(self, num_pages: int) -> None:
        self._free = {0: num_pages}  # start to size, no two that touch

    def take(self, count: int) -> tuple[int, int] | None:
        """See ``Arena``."""
        start = next((start for start, size in sorted(self._free.items()) if size >= count), None)
        if start is None:
            return None
        size = self._free.pop(start)
        if size > count:
            self._free[start + count] = size - count
        return start, count

    def give(self, start: int, size: int) -> None:
        """See ``Arena``."""
        if behind := self._free.pop(start + size, 0):
            size += behind
        before = next((s for s, n in self._free.items() if s + n == start), None)
        if before is not None:
            start, size = before, size + self._free[before]
        self._free[start] = size

    @property
    def largest(self) -> int:
        """See ``Arena``."""
        return max(self._free.values(), default=0)


class Buddies:
    """Takes blocks of a power of two, split from larger ones and joined again.

    After Knowlton, "A fast storage allocator", 1965.  A pool that is no power of two is several blocks.
    """

    def __init__(self, num_pages: int) -> None:
        self._free: set[tuple[int, int]] = set()  # size and start, the start a multiple of the size
        start = 0
        while start < num_pages:
            size = 1 << ((num_pages - start).bit_length() - 1)
            self._free.add((size, start))
            start += size

    def take(self, count: int) -> tuple[int, int] | None:
        """See ``Arena``."""
        size = 1 << (count - 1).bit_length()
        found = min((block for block in self._free if block[0] >= size), default=None)
        if found is None:
            return None
        self._free.remove(found)
        half, start = found
        while half > size:
            half //= 2
            self._free.add((half, start + half))
        return start, size

    def give(self, start: int, size: int) -> None:
        """See ``Arena``."""
        while (size, start ^ size) in self._free:
            self._free.remove((size, start ^ size))
            start, size = min(start, start ^ size), 2 * size
        self._free.add((size, start))

    @property
    def largest(self) -> int:
        """See ``Arena``."""
        return max((size for size, _ in self._free), default=0)
