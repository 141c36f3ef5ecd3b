# SPDX-License-Identifier: Apache-2.0
"""Lists of slots that rows see, as DeepSeek Sparse Attention passes them, and the token lists of a case.

A slot is ``page * page_size + offset``; -1 names none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.dtypes import Array
from pabench.problem.layout import PageLayout
from pabench.problem.masks.sets import NONE as NOTHING
from pabench.problem.masks.sets import TOKENS
from pabench.problem.tensors import Tensors
from pabench.problem.visibility import seen_keys

Masks = tuple[tuple[str, Any], ...]


def spread_list(kv_len: int, width: int) -> tuple[int, ...]:
    """Return at most ``width`` tokens of a sequence, spread over it, the last one first, behind a hole."""
    count = min(kv_len, max(width - 1, 0))
    keys = [kv_len - 1 - at * kv_len // count for at in range(count)]
    return (NOTHING, *keys)


def slots_of_lists(tensors: Tensors, width: int) -> Array:
    """Return the slots of the keys that each row sees, in the order of its list, int32 ``(rows, width)``."""
    case, size = tensors.case, tensors.case.problem.page_size
    lists = dict(case.masks)[TOKENS]
    found = np.full((case.batch.num_query_tokens, width), NOTHING, np.int32)
    for sequence, kv_len in enumerate(case.batch.kv_lens):
        first, end = (int(row) for row in tensors.qo_indptr[sequence : sequence + 2])
        pages = tensors.layout.pages(sequence, kv_len)
        for row, seen in zip(found[first:end], seen_keys(case, sequence), strict=True):
            for at, key in enumerate(lists[sequence]):
                if key != NOTHING and seen[key]:
                    row[at] = pages[key // size] * size + key % size
    return found


def layout_of_lists(
    where: str, given: Any, size: int, num_pages: int
) -> tuple[PageLayout, tuple[int, ...], Masks]:
    """Return block table, lengths and mask of rows with lists of slots.

    Each row is a sequence: of the pages that its list names, in their order.

    Raises:
        InvalidCase: an entry is no slot of the cache.
    """
    slots = np.asarray(given).astype(np.int64)
    top = num_pages * size
    if ((slots < NOTHING) | (slots >= top)).any():
        wrong = int(slots[(slots < NOTHING) | (slots >= top)][0])
        raise InvalidCase(where, wrong, f"must be {NOTHING} or one of the {top} slots of the cache")
    pages = [np.unique(row[row != NOTHING] // size) for row in slots]
    table = np.full((len(slots), max([1, *map(len, pages)])), -1, np.int32)
    lists = []
    for row, mine, entries in zip(slots, pages, table, strict=True):
        entries[: len(mine)] = mine
        keys = np.searchsorted(mine, row // size) * size + row % size
        lists.append(tuple(np.where(row == NOTHING, NOTHING, keys).tolist()))
    layout = PageLayout(page_size=size, num_pages=num_pages, block_table=table)
    return layout, tuple(len(mine) * size for mine in pages), ((TOKENS, tuple(lists)),)
