# SPDX-License-Identifier: Apache-2.0
"""The part of the protocol that is about cached pages: prefixes, how long they are kept, and a lower tier."""

from __future__ import annotations

from typing import ClassVar

from pabench.errors import Unsupported
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.results import Hit, Prompt

DEFAULT_PRIORITY = 35
"""Of a cached page of which nothing was said, on a scale of 0 to 100; after TensorRT-LLM."""


class CacheOperations:
    """What a page allocator does with what is cached; a subclass overrides the operations that it offers."""

    name: ClassVar[str]

    # --- prefix cache ---------------------------------------------------------------------------------

    def commit(self, sequence: int, prompt: Prompt) -> None:
        """Offer to others the full pages of a live sequence; ``prompt`` is what it has computed so far.

        A page whose prefix is cached already is not entered a second time, or, where duplicates are declared,
        takes the place of the one that was entered first when that leaves the cache.

        Raises:
            InvalidCase: more tokens than the sequence has, or a page was committed with others before.
        """
        raise self.no("commit")

    def lookup(self, prompt: Prompt) -> Hit:
        """Return the longest cached beginning of a prompt in full pages; changes nothing.

        With groups it ends at a multiple of ``page_size`` where each group has what the next query needs.
        Where partial hits are declared, it goes on with what another cached page shares at its beginning.
        """
        raise self.no("lookup")

    def adopt(self, sequence: int, hit: Hit) -> Array | None:
        """Start a sequence with the pages of a hit.

        Returns:
            None, or int32 ``(n, 3)``: of a partial hit, the beginning of a page that is copied to one of its
            own, as the copies of a grant are.

        Raises:
            OutOfPages: the pages that would cease to be evictable, or be taken, are needed for the watermark.
            InvalidCase: the sequence is there already, or the cache no longer holds these pages.
        """
        raise self.no("adopt")

    def evict(self, pages: int) -> tuple[int, ...]:
        """Free up to ``pages`` evictable pages and return them.

        Those of the lowest priority go first, see ``retain``; of these the least recently used.
        """
        raise self.no("evict")

    def retain(self, prompt: Prompt, priority: int, seconds: int | None) -> None:
        """Set how much the cached full pages of a prompt are worth, until they leave the cache.

        Args:
            prompt: whose pages, as far as they are cached.
            priority: 0 to 100; that of a page of which nothing was said is ``DEFAULT_PRIORITY``.
            seconds: after so many, see ``pass_time``, it is that again; None for never.
        """
        raise self.no("retain")

    def pass_time(self, seconds: int) -> None:
        """Say that so many seconds have passed; the allocator looks at no clock."""
        raise self.no("pass_time")

    # --- two tiers ------------------------------------------------------------------------------------

    def move_down(self, pages: int) -> Array:
        """Let up to ``pages`` evictable pages go to the lower tier, least recently used first.

        They leave the cache, and are free when the copy has ended.  Where the lower tier has no page free,
        the prefix that has been there longest makes room; pages that copies read or write make none.

        Returns:
            Int32 ``(n, 3)``: copy the first ``[i, 2]`` slots of page ``[i, 0]`` to host page ``[i, 1]``.  It
            is in flight until ``end_copy``, unless it is empty.
        """
        raise self.no("move_down")

    def load(self, prompt: Prompt) -> Array:
        """Bring back what the lower tier has of a prompt, page by page to where neither tier has one.

        The pages are cached and evictable when the copy has ended, free where the prefix has been cached
        again meanwhile; the host pages are free then.  As in ``lookup`` the last token's page is left out.

        Returns:
            Int32 ``(n, 3)``: copy the first ``[i, 2]`` slots of host page ``[i, 0]`` to page ``[i, 1]``.  It
            is in flight until ``end_copy``, unless it is empty.

        Raises:
            OutOfPages: too few pages are available above the watermark.
        """
        raise self.no("load")

    def end_copy(self) -> None:
        """Say that the oldest copy in flight has landed.

        Raises:
            InvalidCase: no copy is in flight.
        """
        raise self.no("end_copy")

    def pin(self, hit: Hit) -> None:
        """Keep the pages of a hit until ``unpin``, as one more holder of each: where and as they are.

        Raises:
            OutOfPages, InvalidCase: as for ``adopt``.
        """
        raise self.no("pin")

    def unpin(self, hit: Hit) -> None:
        """End one pin of a hit.

        Raises:
            InvalidCase: it is not pinned.
        """
        raise self.no("unpin")

    def no(self, operation: str) -> Unsupported:
        """Return the error for an operation that is not offered."""
        return Unsupported(f"{self.name} offers no {operation}")
