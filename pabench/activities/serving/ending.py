"""The end of a run: every request has left, so that the allocator must have everything back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pabench.subjects.allocators.base import PageAllocator


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """What an allocator has to give.

    Attributes:
        pages: free and evictable.
        swap_pages: free, of the swap store.
    """

    pages: int
    swap_pages: int


def stock_of(allocator: PageAllocator) -> Stock:
    """Return what it has to give now."""
    return Stock(pages=allocator.free_pages + allocator.evictable_pages, swap_pages=allocator.free_swap_pages)


def not_returned(allocator: PageAllocator, before: Stock) -> str | None:
    """Return what is still held after all sequences have ended, in words; None when nothing is.

    Args:
        allocator: under test.
        before: what it had before the first request.
    """
    lengths = allocator.lengths()
    if (live := np.flatnonzero(lengths >= 0)).size:
        tokens = int(lengths[live[0]])
        return f"all requests have ended, and sequence {live[0]} is live still, with {tokens} tokens"
    now = stock_of(allocator)
    for what, had, has in (
        ("pages", before.pages, now.pages),
        ("pages of the swap store", before.swap_pages, now.swap_pages),
    ):
        if has != had:
            lost = f"{had - has} lost" if has < had else f"{has - had} too many"
            return f"invariant 1: all requests have ended, and {has} of {had} {what} are to be had ({lost})"
    refcounts = allocator.refcounts()
    if refcounts is not None and (held := np.flatnonzero(np.asarray(refcounts) != 0)).size:
        page = int(held[0])
        told = f"page {page} is said to be held {refcounts[page]} times"
        return f"invariant 10: all requests have ended, and {told}"
    return None
