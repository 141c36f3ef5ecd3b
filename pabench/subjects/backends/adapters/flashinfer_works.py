# SPDX-License-Identifier: Apache-2.0
"""Which rows and keys blocks of FlashInfer's kernel over latent caches have: what ``MLAPlan`` plans."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

TILE = 64
"""Query rows times heads of a block."""
LIMITS = ((8, 32), (16, 64), (32, 128), (64, 192))
"""Keys that a block has to see at most, and how many it then takes at a time; of more, steps of ``STEP``."""
STEP = 256
WHOLE = -1
"""Instead of a place for a part: the block writes the output itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A tile of rows and a range of keys of a sequence.

    Attributes:
        row: the sequence's first query row.
        page: the first of its pages in the list of all.
        part: where what the block writes begins, in rows times heads, or ``WHOLE``.
        rows, keys: of the sequence.
        first: of its rows times heads, the tile's first.
        start, end: the range of its keys.
    """

    row: int
    page: int
    part: int
    rows: int
    keys: int
    first: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Rows that a block merges in the end; none in a block that has nothing to merge.

    Attributes:
        start, end: rows times heads of the output.
        part, last: where their parts begin and end.
        stride: between the parts of one row.
    """

    start: int = 0
    end: int = 0
    part: int = 0
    last: int = 0
    stride: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Works:
    """A plan.

    Attributes:
        across: blocks that share a work, one tile each.
        works: of each group of such blocks.
        merges: of each block that has any.
        parts: rows times heads that all parts take.
    """

    across: int
    works: list[list[Work]]
    merges: list[Merge] = field(default_factory=list)
    parts: int = 0


def plan_works(
    kv_lens: list[int], q_lens: list[int], pages: list[int], *, heads: int, causal: bool, blocks: int
) -> Works:
    """Return the plan of a batch by the rules of FlashInfer's ``MLAPlan``.

    Args:
        kv_lens: keys of each sequence.
        q_lens: query rows of each sequence.
        pages: where each sequence's pages begin in the list of all.
        heads: query heads.
        causal: whether rows see no later keys.
        blocks: that run side by side, an even number.
    """
    across = 2 if sum(q_lens) * heads // len(q_lens) > TILE else 1
    tile = across * TILE
    groups = blocks // across
    asked = []
    row = 0
    for keys, rows, page in zip(kv_lens, q_lens, pages, strict=True):
        count = -(-rows * heads // tile)
        for at in reversed(range(count)):
            seen = keys
            if causal and at + 1 < count:
                seen = max(min(keys - rows + -(-(at + 1) * tile // heads), keys), 0)
            asked.append((row, page, rows, keys, at * tile, seen))
        row += rows
    share = max(1, -(-sum(seen for *_, seen in asked) // groups))
    limit = next((keys for most, keys in LIMITS if share <= most), -(-share // STEP) * STEP)
    plan = Works(across=across, works=[[] for _ in range(groups)])
    loads = [(0, group) for group in range(groups)]
    parts = 0
    for row, page, rows, keys, first, seen in asked:
        size = min(tile, rows * heads - first)
        split = seen > limit
        if split:
            step = -(-size // max(1, seen * across // limit))
            last = parts + -(-seen // limit) * size
            for offset in range(0, size, step):
                begin = row * heads + first
                plan.merges.append(
                    Merge(
                        start=begin + offset,
                        end=begin + min(offset + step, size),
                        part=parts + offset,
                        last=last,
                        stride=size,
                    )
                )
        for start in range(0, max(seen, 1), limit):
            end = min(start + limit, seen)
            load, group = heapq.heappop(loads)
            heapq.heappush(loads, (load + 2 * tile + end - start, group))
            plan.works[group].append(
                Work(
                    row=row,
                    page=page,
                    part=parts if split else WHOLE,
                    rows=rows,
                    keys=keys,
                    first=first,
                    start=start,
                    end=end,
                )
            )
            parts += size * split
    return Works(across=across, works=plan.works, merges=plan.merges, parts=parts)
