# SPDX-License-Identifier: Apache-2.0
"""Strategies of batches: how many sequences, how long, and which begin with the same pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from hypothesis import strategies as st

from pabench.problem.batch import SPECULATIVE_TOKENS, Batch
from pabench.problem.forks import Fork
from pabench.problem.layout import pages_needed
from pabench.strategies.shapes import TILE_TOKENS, among, whole


@cache  # asked for once a case: Hypothesis validates each new strategy anew
def kv_lengths(page_size: int, *, max_len: int = 200, min_len: int = 0) -> st.SearchStrategy[int]:
    """Lengths at and beside the edges of pages and of 32-token tiles, and any other."""
    edges = {0, 1}
    for step in (page_size, TILE_TOKENS, 2 * TILE_TOKENS):
        edges |= {step * k + d for k in (1, 2, 3) for d in (-1, 0, 1)}
    near = sorted(n for n in edges if min_len <= n <= max_len)
    # any length first: what fails at an edge shrinks on to the shortest length that fails
    return st.one_of(st.integers(min_len, max_len), st.sampled_from(near or [min_len]))


@cache
def batches(
    page_size: int, *, max_seqs: int = 5, max_len: int = 200, min_len: int = 0
) -> st.SearchStrategy[Batch]:
    """Ragged decode batches of one to ``max_seqs`` sequences."""
    lengths = kv_lengths(page_size, max_len=max_len, min_len=min_len)
    return st.lists(lengths, min_size=1, max_size=max_seqs).map(lambda lens: Batch(kv_lens=tuple(lens)))


@cache
def _any_or(low: int, high: int, edges: tuple[int, ...]) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(low, high), st.sampled_from(edges))


@cache
def _few_lengths(page_size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.one_of(st.just(0), kv_lengths(page_size)), max_size=2)


@st.composite
def long_batches(draw: st.DrawFn, page_size: int, *, max_len: int = 3000) -> Batch:
    """One sequence long enough for a kernel to split its keys, beside at most two short or empty ones."""
    edges = sorted({size * k + d for size in (256, 512, 1024) for k in (1, 2) for d in (-1, 0, 1, 33)})
    longest = draw(_any_or(513, max_len, tuple(n for n in edges if n > 512)))
    others = draw(_few_lengths(page_size))
    return Batch(kv_lens=tuple(draw(st.permutations([longest, *others]))))


@st.composite
def prefill_batches(
    draw: st.DrawFn, page_size: int, *, max_seqs: int = 3, max_len: int = 100, max_rows: int = 40
) -> Batch:
    """Ragged batches with several query rows in some sequence: chunks, whole prompts, none, too many."""
    kv_lens, q_lens = [], []
    for _ in range(draw(whole(1, max_seqs))):
        kv_len = draw(kv_lengths(page_size, max_len=max_len))
        near = sorted({0, 1, 2, 15, 17, 33} | {max(0, kv_len + d) for d in (-1, 0, 1, 2)})
        short = [n for n in near if n <= max_rows]
        q_lens.append(draw(_any_or(1, 8, tuple(short))))
        kv_lens.append(kv_len)
    if max(q_lens) < 2:
        q_lens[0] = 2
    return Batch(kv_lens=tuple(kv_lens), q_lens=tuple(q_lens))


@st.composite
def long_prefill_batches(
    draw: st.DrawFn, page_size: int, *, max_len: int = 500, max_rows: int = 140
) -> Batch:
    """A prompt or chunk over many tiles of a kernel, beside at most one short sequence."""
    queries = draw(_any_or(9, max_rows, (63, 64, 65, 128, 129)))
    kv_len = draw(st.one_of(st.just(queries), st.integers(max(130, queries), max_len)))
    pairs = [(kv_len, queries)]
    if draw(st.booleans()):
        pairs.append((draw(kv_lengths(page_size, max_len=100)), draw(st.integers(0, 8))))
    chosen = draw(st.permutations(pairs))
    return Batch(kv_lens=tuple(kv for kv, _ in chosen), q_lens=tuple(rows for _, rows in chosen))


@st.composite
def tile_end_batches(draw: st.DrawFn, page_size: int) -> Batch:
    """A prompt or chunk whose keys nearly fill the last tile of a kernel: up to 15 slots are free."""
    kv_len = 128 * draw(whole(1, 3)) - draw(among(1, 7, 8, 15))
    queries = draw(_any_or(9, 100, (33, 64, 65)))
    return Batch(kv_lens=(kv_len,), q_lens=(queries,))


@st.composite
def batches_of_pages(draw: st.DrawFn, page_size: int) -> Batch:
    """One sequence of most of a page to two and a little, beside two short ones at most."""
    edges = tuple(page_size * k + d for k in (1, 2) for d in (-1, 0, 1, 17))
    longest = draw(_any_or(page_size - page_size // 8, 2 * page_size + TILE_TOKENS, edges))
    others = draw(_few_lengths(page_size))
    return Batch(kv_lens=tuple(draw(st.permutations([longest, *others]))))


BEYOND_A_BLOCK = 1025
"""Sequences: one more than the threads of the largest block, which may plan a batch."""


@st.composite
def crowded_batches(draw: st.DrawFn, page_size: int) -> Batch:
    """33 to 300 sequences or 1,025, most of which have keys, and more than 32 of them in any case."""
    count = draw(_any_or(33, 300, (33, 63, 64, 65, 128, 129, 256, 257, *[BEYOND_A_BLOCK] * 3)))
    # few lengths that come round again: each one drawn would be more than Hypothesis allows a case
    lengths = kv_lengths(page_size, max_len=70 if count < BEYOND_A_BLOCK else 7, min_len=1)
    few = draw(st.lists(lengths, min_size=1, max_size=7))
    empty = draw(st.sets(st.integers(0, count - 1), max_size=min(3, count - 33)))
    return Batch(kv_lens=tuple(0 if at in empty else few[at % len(few)] for at in range(count)))


LONGEST = 70_000
FAR_EDGES = tuple(sorted(2**power + d for power in (12, 13, 15, 16) for d in (-1, 0, 1)))


@st.composite
def far_batches(draw: st.DrawFn, page_size: int) -> Batch:
    """One sequence of 3,001 to 70,000 keys, half of them beyond 15 bits, beside at most one short one."""
    far = tuple(n for n in FAR_EDGES if n >= 2**15 - 1)
    longest = draw(st.one_of(_any_or(3001, LONGEST, FAR_EDGES), _any_or(2**15, LONGEST, far)))
    others = draw(_few_lengths(page_size))[:1]
    return Batch(kv_lens=tuple(draw(st.permutations([longest, *others]))))


MOST_ROWS = 1100


@st.composite
def many_row_batches(draw: st.DrawFn, page_size: int, *, most: int = MOST_ROWS) -> Batch:
    """A prompt or chunk of 257 to ``most`` query rows, over as many keys, some more, or few."""
    edges = (257, 511, 512, 513, 1023, 1024, 1025, most)
    queries = draw(_any_or(257, most, tuple(rows for rows in edges if rows <= most)))
    kv_len = draw(st.one_of(st.just(queries), whole(queries, queries + 100), whole(1, 100)))
    pairs = [(kv_len, queries)]
    if draw(st.booleans()):
        pairs.append((draw(kv_lengths(page_size, max_len=100)), draw(st.integers(0, 8))))
    chosen = draw(st.permutations(pairs))
    return Batch(kv_lens=tuple(kv for kv, _ in chosen), q_lens=tuple(rows for _, rows in chosen))


def ending_full(drawn: st.SearchStrategy[Batch], page_size: int) -> st.SearchStrategy[Batch]:
    """Batches of ``drawn`` whose last sequence is made the longest, and to fill its last page.

    The last entry of its row is the last of the table, and the last slot of its page may be that of the pool.
    """

    def filled(batch: Batch) -> Batch:
        pages = max(1, pages_needed(max(batch.kv_lens), page_size))
        return replace(batch, kv_lens=(*batch.kv_lens[:-1], pages * page_size))

    return drawn.map(filled)


@cache
def _drafts(page_size: int, max_seqs: int, max_len: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    lengths = st.one_of(kv_lengths(page_size, max_len=max_len), st.integers(0, SPECULATIVE_TOKENS))
    pairs = st.lists(st.tuples(lengths, st.integers(0, SPECULATIVE_TOKENS)), min_size=1, max_size=max_seqs)
    return pairs.filter(lambda found: any(queries for _, queries in found))


@st.composite
def speculative_batches(draw: st.DrawFn, page_size: int, *, max_seqs: int = 4, max_len: int = 200) -> Batch:
    """Ragged batches of 0 to 8 query tokens a sequence; some have fewer keys than query tokens."""
    chosen = draw(_drafts(page_size, max_seqs, max_len))
    return Batch(kv_lens=tuple(kv for kv, _ in chosen), q_lens=tuple(queries for _, queries in chosen))


@st.composite
def prefix_batches(draw: st.DrawFn, page_size: int, *, max_seqs: int = 6, max_rows: int = 4) -> Batch:
    """Two sequences or more, most of them long enough to share some pages; 1 to ``max_rows`` query tokens."""
    pages = draw(st.integers(1, max(1, min(6, 160 // page_size))))
    kv_lens, q_lens = [], []
    for _ in range(draw(whole(2, max_seqs))):
        begin = draw(among(pages, pages, pages, pages // 2, 0)) * page_size
        q_len = draw(whole(1, max_rows))
        kv_lens.append(begin + draw(_rest(q_len)))
        q_lens.append(q_len)
    return Batch(kv_lens=tuple(kv_lens), q_lens=tuple(q_lens))


@cache
def _rest(q_len: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(0, 40), st.just(0), st.just(q_len))


@cache
def _most_or_fewer(most: int) -> st.SearchStrategy[int]:
    return st.one_of(st.just(most), st.integers(0, most))


@st.composite
def forks(draw: st.DrawFn, kv_lens: Sequence[int], page_size: int) -> tuple[Fork, ...]:
    """Forks of a batch: most sequences that can begin with all or some full pages of an earlier one."""
    found = []
    for child in range(1, len(kv_lens)):
        parent = draw(whole(0, child - 1))
        most = min(kv_lens[child], kv_lens[parent]) // page_size
        pages = draw(_most_or_fewer(most))
        if pages:
            found.append((child, parent, pages))
    return tuple(found)
