# SPDX-License-Identifier: Apache-2.0
"""An allocator in front of another one, answering from its state; the operations differ by what it is for."""

from __future__ import annotations

from typing import Any

from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator


class ForwardingAllocator(PageAllocator):
    """Answers from the state of ``subject``; operations are left to the class that inherits.

    Attributes:
        subject: the allocator behind it.
    """

    def __init__(self, subject: PageAllocator) -> None:
        self.name = subject.name  # type: ignore[misc]
        super().__init__(subject.shape)
        self.subject = subject

    def lengths(self) -> Array:
        """See ``PageAllocator``."""
        return self.subject.lengths()

    def block_table(self) -> Array:
        """See ``PageAllocator``."""
        return self.subject.block_table()

    @property
    def free_pages(self) -> int:
        """See ``PageAllocator``."""
        return self.subject.free_pages

    @property
    def evictable_pages(self) -> int:
        """See ``PageAllocator``."""
        return self.subject.evictable_pages

    @property
    def returning_pages(self) -> int:
        """See ``PageAllocator``."""
        return self.subject.returning_pages

    @property
    def free_swap_pages(self) -> int:
        """See ``PageAllocator``."""
        return self.subject.free_swap_pages

    def swapped(self, sequence: int) -> int | None:
        """See ``PageAllocator``."""
        return self.subject.swapped(sequence)

    def memory_split(self) -> Any:
        """See ``PageAllocator``."""
        return self.subject.memory_split()
