# SPDX-License-Identifier: Apache-2.0
"""The lower tier of a pool, as a server uses it: what would be evicted goes down, what is asked for returns.

Copies are ordered before the kernels of their step, so that they have landed when these run; the executor
adds what they take to the step.  As HiCache and vLLM's offloading connector do, without running ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

from pabench.errors import OutOfPages
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.base import PageAllocator
from pabench.subjects.allocators.results import Prompt


@dataclass(slots=True)
class Tier:
    """Moves pages of an allocator.

    Attributes:
        allocator: with a lower tier.
        lowered: pages that went down.
        loaded: pages that came back.
    """

    allocator: PageAllocator
    lowered: int = 0
    loaded: int = 0

    def make_room(self, slots: Array, tokens: int) -> None:
        """Move down what would be evicted when each of ``slots`` grows by ``tokens``."""
        held, size = self.allocator.lengths()[slots], self.allocator.shape.page_size
        self._lower(int((-(-(held + tokens) // size) + -held // size).sum()))

    def fetch(self, prompt: Prompt, tokens: int) -> None:
        """Bring back what there is of a prompt that is to start with ``tokens``, with room for the rest."""
        allocator, pages = self.allocator, pages_needed(tokens, self.allocator.shape.page_size)
        hit = allocator.lookup(prompt)
        if hit.pages:
            allocator.pin(hit)
        try:
            self._lower(pages - len(hit.pages))
            if copies := len(allocator.load(prompt)):
                self.loaded += copies
                allocator.end_copy()
        except OutOfPages:
            pass  # whoever starts is told so
        finally:
            if hit.pages:
                allocator.unpin(hit)

    def _lower(self, pages: int) -> None:
        """See that so many pages are free, as far as evictable ones can go down for them."""
        short = min(pages - self.allocator.free_pages, self.allocator.evictable_pages)
        if short > 0 and (copies := len(self.allocator.move_down(short))):
            self.lowered += copies
            self.allocator.end_copy()
