# SPDX-License-Identifier: Apache-2.0
"""Where the pages of a batch lie in the pool, and what stands in the unused entries of the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pabench.problem.checks import INT32_MAX, lengths_tuple, one_of, whole_number
from pabench.problem.dtypes import Array
from pabench.problem.forks import Fork, checked_forks
from pabench.problem.layout import PageLayout, pages_needed

PLACEMENT_NOTES = {
    "identity": "pages in the order of their use",
    "shuffled": "any page of the pool, in any order",
    "reversed": "from the end of the pool downwards",
    "high": "shuffled, on both sides of page 65,536, where a 16-bit page id wraps",
    "huge-pool": "shuffled, where 31 and 32 bits of a page's offset wrap, in a pool larger than memory",
}
HUGE_POOL = "huge-pool"
PLACEMENTS = tuple(name for name in PLACEMENT_NOTES if name != HUGE_POOL)
"""Those that any backend can be given."""
TABLE_TAILS = ("zero", "minus-one", "int-max", "out-of-pool", "foreign")

HIGH_PAGE_BASE = 2**16
"""``high`` placement spreads ids on both sides of this one, where a 16-bit page id wraps."""


def place_pages(
    kv_lens: Sequence[int],
    page_size: int,
    *,
    placement: str = "shuffled",
    spare_pages: int = 0,
    tail: str = "minus-one",
    tail_columns: int = 1,
    wraps: Sequence[int] = (),
    forks: Sequence[Fork] = (),
    rng: np.random.Generator,
) -> PageLayout:
    """Give each sequence its pages and return the padded table.

    Args:
        kv_lens: tokens of each sequence.
        page_size: tokens of one page.
        placement: ``identity`` (in order of use), ``shuffled``, ``reversed``, ``high`` (shuffled, with
            ids around and above 65,536, so that an id cut to 16 bits lands on a page of no sequence), or
            ``huge-pool`` (shuffled, with ids on both sides of ``wraps``).
        spare_pages: pages of the pool that no sequence uses.
        tail: what the unused entries hold; ``foreign`` means pages of other sequences.
        tail_columns: columns beyond the widest row.
        wraps: ids of pages, for ``huge-pool``; the pool ends behind the last of them.
        forks: which sequences begin with pages of an earlier one, see ``forks.py``.
        rng: source of the shuffles.
    """
    one_of("placement", placement, PLACEMENT_NOTES)
    one_of("tail", tail, TABLE_TAILS)
    whole_number("page_size", page_size, low=1)
    whole_number("spare_pages", spare_pages, low=0)
    whole_number("tail_columns", tail_columns, low=0)
    lengths_tuple("kv_lens", kv_lens)
    counts = [pages_needed(n, page_size) for n in kv_lens]
    shared = {child: (parent, pages) for child, parent, pages in checked_forks(forks, kv_lens, page_size)}
    total = sum(counts) - sum(pages for _, pages in shared.values())
    num_pages = total + spare_pages
    if placement == "high":
        num_pages = HIGH_PAGE_BASE + max(num_pages, 8)
    if placement == HUGE_POOL:
        num_pages = max(wraps) + num_pages + 1
    # page ids are int32, and so is the first id out of the pool
    whole_number("num_pages", num_pages, low=0)
    if placement == "high":
        low_ids = total // 8
        high_ids = HIGH_PAGE_BASE + rng.permutation(num_pages - HIGH_PAGE_BASE)[: total - low_ids]
        ids = np.concatenate([HIGH_PAGE_BASE - 1 - np.arange(low_ids), high_ids])
        rng.shuffle(ids)
    elif placement == HUGE_POOL:
        reach = -(-total // len(wraps)) + 1
        ids = np.unique([[max(wrap - reach, 0) + np.arange(2 * reach)] for wrap in wraps])
        ids = rng.permutation(ids[ids < num_pages])[:total]
    elif placement == "shuffled":
        ids = rng.permutation(num_pages)[:total]
    else:
        ids = np.arange(total)
        if placement == "reversed":
            ids = num_pages - 1 - ids
    width = max(counts, default=0) + tail_columns
    table = _tail_values(tail, (len(counts), width), ids, num_pages, rng)
    start = 0
    for row, count in enumerate(counts):
        parent, pages = shared.get(row, (0, 0))
        table[row, :pages] = table[parent, :pages]
        table[row, pages:count] = ids[start : start + count - pages]
        start += count - pages
    return PageLayout(page_size=page_size, num_pages=num_pages, block_table=table)


def _tail_values(
    tail: str, shape: tuple[int, int], ids: Array, num_pages: int, rng: np.random.Generator
) -> Array:
    if tail == "foreign" and ids.size:
        return rng.choice(ids, size=shape).astype(np.int32)
    value = {"zero": 0, "minus-one": -1, "int-max": INT32_MAX, "out-of-pool": num_pages, "foreign": -1}[tail]
    return np.full(shape, value, dtype=np.int32)
