# SPDX-License-Identifier: Apache-2.0
"""What holds of an allocator at any time, read through its protocol alone.

Numbers follow the specification: 1 conservation, 2 ownership, 3 table length, 10 reference counts, 12 waste
(a consequence of 3), 15 honest figures, 16 pages on their way back, 19 tiers.  A violation is returned as
words, never raised.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pabench.problem.dtypes import Array
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
    if lengths.shape != (shape.max_seqs,) or table.shape != (shape.max_seqs, shape.columns):
        return f"state of shapes {lengths.shape} and {table.shape} does not fit {shape}"
    if lengths.min() < -1 or lengths.max() > shape.max_tokens:
        wrong = np.argmax((lengths < -1) | (lengths > shape.max_tokens))
        return f"sequence {wrong} has length {lengths[wrong]}, must be at most {shape.max_tokens}"
    held = np.zeros(table.shape, bool)
    width, by_hand = shape.max_pages_per_seq, "free_window" in can.operations
    for at, group in enumerate(shape.kv_groups):
        mine, windows = slice(at * width, (at + 1) * width), by_hand or group.kind != "full"
        part = _held(lengths, table[:, mine], group.page_size, windows=windows)
        if isinstance(part, str):
            return part
        held[:, mine] = part
    top = shape.num_pages + len(can.reserved_pages)
    if found := _not_to_be_held(table, held, can, top):
        return found
    counted = np.bincount(table[held], minlength=top)
    returning = allocator.returning_pages
    if returning and can.returns == "at-once" and not {"begin_step", "move_down"} & can.operations:
        return f"invariant 16: {returning} pages are on their way back, none are declared to be ever"
    refcounts = allocator.refcounts()
    if refcounts is not None:
        unlike = np.asarray(refcounts)[:top] != counted
        if returning:
            # what is on its way back may count as held
            unlike &= (counted != 0) | (np.asarray(refcounts)[:top] != 1)
        if unlike.any():
            page = np.argmax(unlike)
            said = f"page {page} is said to be held {refcounts[page]} times"
            return f"invariant 10: {said}, stands in {counted[page]} table entries"
    in_use, free, evictable = np.count_nonzero(counted), allocator.free_pages, allocator.evictable_pages
    pinned = allocator.pinned_pages
    lost = shape.num_pages - in_use - free - evictable - returning - pinned
    # whoever reserves holds more pages than stand in tables
    short = any(count < 0 for count in (lost, free, evictable, returning, pinned))
    if short or (lost and can.refusal != "fragmenting"):
        parts = f"{in_use} held, {free} free and {evictable} evictable pages"
        parts = f"{parts}, {returning} on their way back" if returning else parts
        parts = f"{parts}, {pinned} pinned" if pinned else parts
        return f"invariant 1: {parts}, must add up to {shape.num_pages}"
    room, stored = allocator.free_host_pages, allocator.cached_host_pages
    if min(room, stored) < 0 or room + stored > shape.host_pages:
        return f"invariant 19: {room} free and {stored} cached host pages of {shape.host_pages}"
    if not allocator.own_split:
        return None
    split = allocator.memory_split()
    sums = split.tokens + split.reserved + split.internal + split.external
    slots = shape.num_pages * shape.page_size
    if sums != slots or min(split.tokens, split.reserved, split.internal, split.external) < 0:
        return f"invariant 15: {split} must add up to {slots} slots"
    return None


def _held(lengths: Array, table: Array, page_size: int, *, windows: bool) -> Array | str:
    """Which entries of the table hold a page, bool, or why the rows do not fit the lengths."""
    need = -(-np.maximum(lengths, 0) // page_size)
    columns = np.arange(table.shape[1])
    inside, null = columns < need[:, None], table == NULL_PAGE
    if not (inside == null).any():
        return inside
    behind = np.argwhere(~inside & ~null)
    if behind.size:
        sequence = behind[0, 0]
        goes_on = f"the table of sequence {sequence} goes on behind its {need[sequence]} pages"
        return f"invariant 3: {goes_on}: {table[sequence].tolist()}"
    # a window gives up pages from the start on
    given_up = np.logical_and.accumulate(null, axis=1) if windows else np.zeros_like(null)
    missing = np.argwhere(inside & null & ~given_up)
    if missing.size:
        sequence, column = missing[0].tolist()
        has = f"sequence {sequence} of {max(int(lengths[sequence]), 0)} tokens has no page {column}"
        return f"invariant 3: {has}, needs {need[sequence]}"
    held: Array = inside & ~null
    return held


def _not_to_be_held(table: Array, held: Array, can: Any, top: int) -> str | None:
    """A page that nobody may hold, or this sequence not once more."""
    pages = table[held]
    within = not pages.size or (pages.min() >= 0 and pages.max() < top)
    if within and not can.reserved_pages and np.bincount(pages, minlength=1).max() <= 1:
        return None  # each has one holder
    barred = np.zeros(top + 1, bool)
    barred[list(can.reserved_pages)] = True
    outside = held & ((table < 0) | (table >= top))
    wrong = np.argwhere(outside | (held & barred[np.where(outside, top, table)]))
    if wrong.size:
        sequence, column = wrong[0].tolist()
        page = table[sequence, column]
        return f"invariant 2: sequence {sequence} holds page {page}, which is not to be granted"
    rows, columns = np.nonzero(held)
    pages = table[rows, columns].astype(np.int64)
    entries = rows * top + pages
    first = np.zeros(entries.size, bool)
    first[np.unique(entries, return_index=True)[1]] = True
    if not first.all():
        sequence = rows[np.argmin(first)]
        return (
            f"invariant 3: sequence {sequence} holds a page twice: {table[sequence][held[sequence]].tolist()}"
        )
    if not {"fork", "adopt"} & can.operations:
        first[:] = False
        first[np.unique(pages, return_index=True)[1]] = True
        if not first.all():
            at = np.argmin(first)
            return f"invariant 2: page {pages[at]} of sequence {rows[at]} has another holder"
    return None
