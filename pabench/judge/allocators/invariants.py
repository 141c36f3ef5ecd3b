"""What holds of an allocator at any time, read through its protocol alone.

Numbers follow the specification: 1 conservation, 2 ownership, 3 table length, 10 reference counts, 12 waste
(a consequence of 3), 15 honest figures.  A violation is returned as words, never raised.
"""

from __future__ import annotations

import numpy as np

from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.base import PageAllocator
from pabench.subjects.allocators.results import NULL_PAGE


def violation(allocator: PageAllocator) -> str | None:
    """Return the first invariant that does not hold now, or None.

    Cost: all entries of the table.
    """
    shape, can = allocator.shape, allocator.capabilities
    lengths, table = allocator.lengths(), allocator.block_table()
    for name, got, want in (("lengths", lengths, np.int64), ("block_table", table, np.int32)):
        if got.dtype != want:
            return f"{name} has dtype {got.dtype}, must have {np.dtype(want)}"
    if lengths.shape != (shape.max_seqs,) or table.shape != (shape.max_seqs, shape.max_pages_per_seq):
        return f"state of shapes {lengths.shape} and {table.shape} does not fit {shape}"
    counted: dict[int, int] = {}
    top = shape.num_pages + len(can.reserved_pages)
    shares = bool({"fork", "adopt"} & can.operations)
    for sequence, (length, row) in enumerate(zip(lengths.tolist(), table.tolist(), strict=True)):
        if not -1 <= length <= shape.max_tokens:
            return f"sequence {sequence} has length {length}, must be at most {shape.max_tokens}"
        need = pages_needed(max(length, 0), shape.page_size)
        given_up = 0
        while given_up < need and row[given_up] == NULL_PAGE and "free_window" in can.operations:
            given_up += 1
        pages, rest = row[given_up:need], row[need:]
        if NULL_PAGE in pages:
            has = f"sequence {sequence} of {max(length, 0)} tokens has no page {pages.index(NULL_PAGE)}"
            return f"invariant 3: {has}, needs {need}"
        if rest.count(NULL_PAGE) != len(rest):
            return f"invariant 3: the table of sequence {sequence} goes on behind its {need} pages: {row}"
        for page in pages:
            if not 0 <= page < top or page in can.reserved_pages:
                return f"invariant 2: sequence {sequence} holds page {page}, which is not to be granted"
            counted[page] = counted.get(page, 0) + 1
            if counted[page] > 1 and not shares:
                return f"invariant 2: page {page} of sequence {sequence} has another holder"
        if len(set(pages)) != len(pages):
            return f"invariant 3: sequence {sequence} holds a page twice: {pages}"
    refcounts = allocator.refcounts()
    if refcounts is not None:
        for page in range(top):
            if refcounts[page] != counted.get(page, 0):
                said = f"page {page} is said to be held {refcounts[page]} times"
                return f"invariant 10: {said}, stands in {counted.get(page, 0)} table entries"
    free, evictable = allocator.free_pages, allocator.evictable_pages
    lost = shape.num_pages - len(counted) - free - evictable
    # whoever reserves holds more pages than stand in tables
    if lost < 0 or free < 0 or evictable < 0 or (lost and can.refusal != "fragmenting"):
        parts = f"{len(counted)} held, {free} free and {evictable} evictable pages"
        return f"invariant 1: {parts}, must add up to {shape.num_pages}"
    split = allocator.memory_split()
    sums = split.tokens + split.reserved + split.internal + split.external
    slots = shape.num_pages * shape.page_size
    if sums != slots or min(split.tokens, split.reserved, split.internal, split.external) < 0:
        return f"invariant 15: {split} must add up to {slots} slots"
    return None
