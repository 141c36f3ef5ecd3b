# SPDX-License-Identifier: Apache-2.0
"""Whether what an allocator has handed out in a stress run is sound: cheap enough for a million pages."""

from __future__ import annotations

import numpy as np

from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator
from pabench.subjects.allocators.results import NULL_PAGE


def held_pages(allocator: PageAllocator) -> Array:
    """Return the pages of all live sequences, row by row, int64."""
    table = allocator.block_table()
    pages: Array = table[table != NULL_PAGE].astype(np.int64)
    return pages


def unsound(allocator: PageAllocator) -> str | None:
    """Return what is wrong, or None: in a stress run no page is shared, so each has one holder or is free."""
    pages, shape, can = held_pages(allocator), allocator.shape, allocator.capabilities
    top = shape.num_pages + len(can.reserved_pages)
    for page in (*can.reserved_pages, *pages[(pages < 0) | (pages >= top)][:1].tolist()):
        if page in pages:
            return f"page {page} was granted, which is none of the pool"
    if np.unique(pages).size != pages.size:
        return "a page is in two places of the table"
    if can.refusal != "fragmenting" and pages.size + allocator.free_pages != shape.num_pages:
        return f"{pages.size} pages held and {allocator.free_pages} free of {shape.num_pages}"
    return None


def spread(pages: Array) -> float:
    """Return the range of ids that ``pages`` span over their number: 1 where they lie together.

    The measure of fragmentation of Winter et al., "Are Dynamic Memory Managers on GPUs Slow?", PPoPP 2021:
    address range against the packed ideal.
    """
    return float(pages.max() - pages.min() + 1) / pages.size if pages.size else 1.0


def scattered(allocator: PageAllocator) -> float:
    """Return the share of neighbours within a sequence whose pages are no neighbours in memory."""
    table = allocator.block_table().astype(np.int64)
    both = (table[:, :-1] != NULL_PAGE) & (table[:, 1:] != NULL_PAGE)
    pairs = int(np.count_nonzero(both))
    apart = int(np.count_nonzero(both & (table[:, 1:] - table[:, :-1] != 1)))
    return apart / pairs if pairs else 0.0


def runs(allocator: PageAllocator) -> tuple[float, float]:
    """Return the pages of a run of neighbouring ids, and the runs of a sequence, both on average.

    A run moves to another memory, or to another machine, in one copy.
    """
    table = allocator.block_table().astype(np.int64)
    held = table != NULL_PAGE
    begins = held.copy()
    begins[:, 1:] &= (table[:, 1:] - table[:, :-1] != 1) | ~held[:, :-1]
    found, sequences = int(np.count_nonzero(begins)), int(np.count_nonzero(held.any(axis=1)))
    return (int(np.count_nonzero(held)) / found, found / sequences) if found else (0.0, 0.0)
