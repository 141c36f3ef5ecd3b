# SPDX-License-Identifier: Apache-2.0
"""What a grant says, and what it may change in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pabench.judge.allocators.windows import pages_unseen
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator
from pabench.subjects.allocators.groups import KvGroup
from pabench.subjects.allocators.results import NULL_PAGE


def slots_of(got: object) -> list[int] | None:
    """Return slots as a list, or None when they are no vector of whole numbers."""
    array = np.asarray(got)
    whole = array.dtype.kind in "iu" or array.size == 0
    return array.tolist() if array.ndim == 1 and whole else None


def rows_of(moves: object) -> list[list[int]]:
    """Return a list of copies, int32 ``(n, 3)``, as lists; None for no copies."""
    rows: list[list[int]] = np.asarray([] if moves is None else moves).reshape(-1, 3).tolist()
    return rows


def moved_page(
    before: Array,
    now: Array,
    lengths: Mapping[int, int],
    copies: set[tuple[int, int]],
    groups: Sequence[KvGroup],
) -> str | None:
    """Return the first entry that growing changed and was not to, or None.

    It may copy a shared last page, and give up what a window no longer sees.

    Args:
        before, now: tables before and after it.
        lengths: tokens that those that grew had before.
        copies: source and target of the grant's copies.
        groups: whose columns stand one behind the other.
    """
    width = before.shape[1] // len(groups)
    for sequence, length in lengths.items():
        for at, group in enumerate(groups):
            mine = slice(at * width, at * width + group.pages(length))
            was, has = before[sequence, mine], now[sequence, mine]
            for column in np.flatnonzero(was != has).tolist():
                old, new = int(was[column]), int(has[column])
                copied = column == length // group.page_size and (old, new) in copies
                slid = new == NULL_PAGE and column < pages_unseen(group, length)
                if not (copied or slid):
                    return f"page {at * width + column} of sequence {sequence} from {old} to {new}"
    return None


def renamed_page(model: Array, subject: Array) -> str | None:
    """Return where two tables are not the same but for the names of the pages, or None."""
    there: dict[int, int] = {NULL_PAGE: NULL_PAGE}
    back: dict[int, int] = {NULL_PAGE: NULL_PAGE}
    if _one_to_one(model, subject):
        return None
    for sequence, column in np.argwhere((model != NULL_PAGE) | (subject != NULL_PAGE)).tolist():
        a, b = int(model[sequence, column]), int(subject[sequence, column])
        if there.setdefault(a, b) != b or back.setdefault(b, a) != a:
            return f"page {column} of sequence {sequence}, {b}, must be shared with others than it is"
    return None


def _one_to_one(model: Array, subject: Array) -> bool:
    """Whether each name in the one table stands for one name in the other."""
    a, b = model.reshape(-1).astype(np.int64), subject.reshape(-1).astype(np.int64)
    if not np.array_equal(a == NULL_PAGE, b == NULL_PAGE):
        return False
    pairs = np.unique(a * 2**32 + b).size
    return pairs == np.unique(a).size == np.unique(b).size


def scattered_page(allocator: PageAllocator) -> str | None:
    """Return the page behind those that are in use, right after pages have moved together, or None."""
    can, table = allocator.capabilities, allocator.block_table()
    used = allocator.shape.num_pages - allocator.free_pages + len(can.reserved_pages)
    if table.size and (page := int(table.max())) >= used:
        return f"invariant 23: page {page} is in use, must be below the {used} pages in use"
    return None
