# SPDX-License-Identifier: Apache-2.0
"""Explanations of where a row read: pages looked up wrongly, all of them or one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np

from pabench.judge.suspect import Fault, Suspect
from pabench.problem.dtypes import Array
from pabench.problem.placement import HIGH_PAGE_BASE

MAX_SEARCHED = 2**22
"""Numbers in the candidate pages, and in the table of (logical page, physical page, dim), at most."""
MAX_LOGICAL_PAGES = 128
"""Logical pages of one row, the weightiest, for which another physical page is tried."""
TILES = (32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 512)
"""Keys that kernels take at once."""


def place_faults(suspect: Suspect) -> Iterator[Fault]:
    """Yield what the row would be, read from other pages."""
    yield from _page_tables(suspect)
    yield from _past_the_page(suspect)
    yield from _single_pages(suspect)


def _page_tables(suspect: Suspect) -> Iterator[Fault]:
    """Every page of the row looked up wrongly."""
    pages, limit = suspect.pages, suspect.tensors.pool.num_pages
    tables = [
        ("page ids cut to 16 bits", [page % HIGH_PAGE_BASE for page in pages]),
        ("the block table ignored (physical page = logical page)", list(range(len(pages)))),
        ("page ids one too high", [page + 1 for page in pages]),
        ("page ids one too low", [page - 1 for page in pages]),
        ("pages in reverse order", pages[::-1]),
        *_next_entries(suspect),
    ]
    for other, kv_len in enumerate(suspect.tensors.kv_lens.tolist()[:64]):
        if other != suspect.sequence:
            row = suspect.tensors.layout.pages(other, kv_len).tolist()
            tables.append((f"the block table row of sequence {other}", row[: len(pages)]))
    for words, table in tables:
        if len(table) == len(pages) and table != pages and all(0 <= page < limit for page in table):
            yield suspect.weighted(words, *suspect.rows(table, suspect.start, suspect.seen, suspect.kv_head))


def _next_entries(suspect: Suspect) -> Iterator[tuple[str, list[int]]]:
    """The table entry after the page's own, and before it; where there is none the page's own or entry 0."""
    pages, row = suspect.pages, suspect.tensors.layout.block_table[suspect.sequence].tolist()
    yield "the next table entry for each page", [*pages[1:], *row[len(pages) : len(pages) + 1]]
    yield "the next table entry for each page but the last", [*pages[1:], pages[-1]]
    yield "the table entry before for each page but the first", [pages[0], *pages[:-1]]


def _past_the_page(suspect: Suspect) -> Iterator[Fault]:
    """Tiles of keys read from the page of their first one: past its end, or from its start again."""
    size, limit, pages = suspect.page_size, suspect.tensors.pool.num_pages, np.asarray(suspect.pages)
    at = np.arange(suspect.start, suspect.seen)
    for tile, origin in product(TILES, dict.fromkeys((0, suspect.start))):
        if size % tile == 0 or tile > 2 * size or suspect.seen <= size:
            continue
        first = (at - origin) // tile * tile + origin
        offset = first % size + at - first
        on = pages[first // size] + offset // size
        for page, words in (
            (on, "read on past the end of a page"),
            (pages[first // size], "taken from one page"),
        ):
            if (page != pages[at // size]).any() and int(page.max()) < limit:
                said = f"tiles of {tile} keys {words}"
                yield suspect.weighted(said, *suspect.slots(page, offset % size), name=said)


def _single_pages(suspect: Suspect) -> Iterator[Fault]:
    """One logical page read from the wrong physical page: try each against each live page.

    Not tried where a key's place or a sink counts too.
    """
    problem = suspect.tensors.case.problem
    if suspect.start or problem.alibi_slopes is not None or problem.sinks is not None:
        return
    used = -(-suspect.seen // suspect.page_size)
    size = suspect.page_size
    most = max(1, MAX_SEARCHED // (max(used, size) * suspect.query.size))
    candidates = _candidate_pages(suspect)[:most]
    keys, values = suspect.rows(candidates, 0, len(candidates) * size, suspect.kv_head)
    keys, values = keys.reshape(-1, size, keys.shape[1]), values.reshape(-1, size, values.shape[1])
    foreign = suspect.logits(keys)
    own = suspect.logits(suspect.keys)
    finite = np.isfinite(foreign) & np.isfinite(values).all(axis=2)
    top = max(float(own.max()), float(foreign[finite].max(initial=-math.inf)))
    mine = np.exp(own - top)
    page = np.arange(suspect.seen) // size
    sums = np.bincount(page, mine, minlength=used)
    accs = np.add.reduceat(mine[:, None] * suspect.values, np.arange(0, suspect.seen, size))
    # what the other pages give, summed rather than subtracted: the page in question may have all the weight
    rest_sum, rest_acc = _all_but_one(sums), _all_but_one(accs)
    tried: list[tuple[float, int, int]] = []
    for logical in np.sort(np.argsort(-sums)[:MAX_LOGICAL_PAGES]).tolist():
        fill = min(size, suspect.seen - logical * size)
        weights = np.exp(foreign[:, :fill] - top)
        total = rest_sum[logical] + weights.sum(axis=1)
        acc = rest_acc[logical] + np.einsum("cs,csd->cd", weights, values[:, :fill])
        distance = np.abs(acc / total[:, None] - suspect.got_out).max(axis=1)
        distance[~finite[:, :fill].all(axis=1)] = math.inf
        distance[[i for i, page in enumerate(candidates) if page == suspect.pages[logical]]] = math.inf
        nearest = int(distance.argmin())
        if distance[nearest] < math.inf:
            tried.append((float(distance[nearest]), logical, candidates[nearest]))
    for _, logical, wrong in sorted(tried)[:4]:
        right = suspect.pages[logical]
        table = [*suspect.pages[:logical], wrong, *suspect.pages[logical + 1 :]]
        words = f"logical page {logical} read from physical page {wrong}, expected {right}"
        if right % HIGH_PAGE_BASE == wrong:
            words += f" ({right} cut to 16 bits is {wrong})"
        yield suspect.weighted(words, *suspect.rows(table, suspect.start, suspect.seen, suspect.kv_head))


def _all_but_one(parts: Array) -> Array:
    """Return for each row of ``parts`` the sum of all others, without subtraction."""
    none = np.zeros((1, *parts.shape[1:]))
    before = np.concatenate([none, np.cumsum(parts[:-1], axis=0)])
    after = np.concatenate([np.cumsum(parts[:0:-1], axis=0)[::-1], none])
    total: Array = before + after
    return total


def _candidate_pages(suspect: Suspect) -> list[int]:
    """Pages that a faulty lookup may reach: own ones and aliases first, then neighbours, then all live."""
    tensors, limit = suspect.tensors, suspect.tensors.pool.num_pages
    live = [
        page
        for sequence, kv_len in enumerate(tensors.kv_lens.tolist())
        for page in tensors.layout.pages(sequence, kv_len).tolist()
    ]
    near = [page + step for page in suspect.pages for step in (-1, 1)]
    table = tensors.layout.block_table[suspect.sequence].tolist()
    wanted = [*suspect.pages, *(page % HIGH_PAGE_BASE for page in suspect.pages), 0, *near, *table, *live]
    return [page for page in dict.fromkeys(wanted) if 0 <= page < limit]
