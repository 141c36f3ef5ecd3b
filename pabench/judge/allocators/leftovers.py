# SPDX-License-Identifier: Apache-2.0
"""What an allocator has not got back once every sequence is to have ended."""

from __future__ import annotations

import numpy as np

from pabench.errors import PabenchError
from pabench.subjects.allocators.base import PageAllocator


def leftovers(allocator: PageAllocator) -> str | None:
    """Return what is not back although every sequence has ended, in words, or None; changes nothing.

    Cached pages that nobody holds count as back: they can be granted.  So do those on their way back.
    """
    shape, lengths = allocator.shape, allocator.lengths()
    live = np.flatnonzero(lengths >= 0).tolist()
    away = [sequence for sequence in range(shape.max_seqs) if allocator.swapped(sequence) is not None]
    for sequences, what in ((live, "live"), (away, "swapped out")):
        if sequences:
            more = f" and {len(sequences) - 1} more" if len(sequences) > 1 else ""
            return f"sequence {sequences[0]}{more} still {what} at the end"
    free, evictable, returning = allocator.free_pages, allocator.evictable_pages, allocator.returning_pages
    if free + evictable + returning != shape.num_pages:
        parts = f"{free} free and {evictable} evictable pages"
        parts = f"{parts}, {returning} on their way back," if returning else parts
        pinned = allocator.pinned_pages
        parts = f"{parts}, {pinned} pinned," if pinned else parts
        return f"invariant 13: {parts} after every sequence has ended, must be {shape.num_pages} together"
    if allocator.free_swap_pages != shape.swap_pages:
        said = f"{allocator.free_swap_pages} free swap pages after every sequence has ended"
        return f"invariant 13: {said}, must be {shape.swap_pages}"
    return None


def leftovers_after_ending(allocator: PageAllocator) -> str | None:
    """End every sequence that is there, then say what is left over; what to hold a shrunk history to."""
    everyone, lengths = range(allocator.shape.max_seqs), allocator.lengths()
    there = [one for one in everyone if lengths[one] >= 0 or allocator.swapped(one) is not None]
    try:
        allocator.free(there)
    except PabenchError as error:
        return f"free {there} at the end: {error}"
    return leftovers(allocator)
