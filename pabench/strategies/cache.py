# SPDX-License-Identifier: Apache-2.0
"""Strategies of what writes the cache, and of states to merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from hypothesis import strategies as st

from pabench.problem.append import AppendCase
from pabench.problem.case import POISONS
from pabench.problem.checks import INT32_MAX
from pabench.problem.dtypes import DTYPES
from pabench.problem.formats import FORMATS
from pabench.problem.layout import pages_needed
from pabench.problem.merge import EMPTIES, SPREADS, MergeCase
from pabench.problem.placement import HIGH_PAGE_BASE
from pabench.problem.pool import KV_LAYOUTS
from pabench.problem.problem import Problem
from pabench.problem.shape import Shape
from pabench.strategies.caches import CACHE_PROBLEMS, gap_fields
from pabench.strategies.lengths import kv_lengths
from pabench.strategies.shapes import HEAD_DIMS, among, problems, whole

APPEND_SCALES = (1.0, 0.25, 3.0, 0.0625, 1.25, 0.10000000149011612, 2.3333332538604736)
"""Powers of two, short numbers whose multiples of ties are exact, and long ones that round."""

BLOCK_DIMS = (24, 80, 192)
"""Head dimensions for formats whose scales are of blocks."""
SMALL_DIM = 32
"""Largest head dimension of caches whose K and V differ."""


@st.composite
def append_cases(
    draw: st.DrawFn,
    *,
    kv_layouts: Sequence[str] = KV_LAYOUTS,
    interleaved: Sequence[bool] = (False, True),
    dtypes: Sequence[str] = tuple(DTYPES),
    head_dims: Sequence[int] = HEAD_DIMS,
    formats: Sequence[str | None] = (None,),
    caches: Sequence[str] = (),
    gaps: Sequence[str] = (),
    paged: bool = False,
    only: Shape | None = None,
) -> AppendCase:
    """Tokens scattered over a small pool, some of them skipped, pages in any order.

    Args:
        draw: given by Hypothesis.
        kv_layouts: NHD, HND or both.
        interleaved: whether K and V may be strided views of one pool.
        dtypes: storage types of the tokens.
        head_dims: head dimensions.
        formats: names of ``FORMATS`` in which the cache may hold the tokens, with scales for all heads or one
            a head where it has such; None for the tokens' own type.
        caches: keys of ``CACHE_PROBLEMS`` that it may be, beside one whose K and V are alike.
        gaps: of ``page-gaps`` and ``kv-strides``, those that it may have.
        paged: whether the slots follow from a block table, for the last tokens of several sequences.
        only: the one shape that the kernel is compiled for.
    """
    name = draw(among(*formats))
    row = None if name is None else FORMATS[name]
    if row is not None and row.block is not None:
        # several blocks, the last of which is not full
        head_dims = [dim for dim in BLOCK_DIMS if dim > row.block][:1]
    problem = draw(problems(dtypes=dtypes, head_dims=head_dims))
    kind = draw(among(None, *caches)) if only is None else None
    if only is not None:
        problem = only.of(problem)
    if kind is not None:
        problem = draw(CACHE_PROBLEMS[kind](problem, SMALL_DIM))
    if row is not None:
        scales = _append_scales(problem.num_kv_heads) if row.tensor_scale else st.none()
        own = draw(scales), None if problem.latent else draw(scales)
        problem = replace(problem, kv_dtype=row.name, k_scale=own[0], v_scale=own[1])
    where = draw(_table_places(problem.page_size) if paged else _slots(problem.page_size))
    side_by_side = not problem.latent and draw(among(*interleaved))
    gap = draw(among(None, None, *gaps)) if gaps else None
    return AppendCase(
        problem=problem,
        kv_layout=draw(among(*kv_layouts)),
        interleaved=side_by_side,
        seed=draw(whole(0, 2**16)),
        **where,
        **({} if gap is None else draw(gap_fields(problem, side_by_side, [gap]))),
    )


@cache
def _append_scales(heads: int) -> st.SearchStrategy[tuple[float, ...]]:
    scales = st.sampled_from(APPEND_SCALES)
    return st.lists(scales, min_size=heads, max_size=heads).map(tuple) | st.tuples(scales)


@st.composite
def high_append_cases(
    draw: st.DrawFn,
    *,
    kv_layouts: Sequence[str] = KV_LAYOUTS,
    interleaved: Sequence[bool] = (False, True),
    dtypes: Sequence[str] = tuple(DTYPES),
    paged: bool = False,
    only: Shape | None = None,
) -> AppendCase:
    """Tokens for the first pages and those around 65,536, of at most 256 bytes; see ``append_cases``."""
    heads, page_size = draw(among(1, 2)), draw(among(1, 2))
    problem = Problem(
        num_qo_heads=heads,
        num_kv_heads=heads,
        head_dim=16,
        page_size=page_size,
        dtype=draw(among(*dtypes)),
    )
    if only is not None:
        problem, page_size = only.of(problem), only.page_size
    num_pages = HIGH_PAGE_BASE + draw(st.integers(2, 4))
    pages = draw(st.permutations([0, 1, *range(HIGH_PAGE_BASE - 2, num_pages)]))
    if paged:
        kv_len = draw(st.integers(2 * page_size, 4 * page_size))
        row = pages[: pages_needed(kv_len, page_size)]
        lens = {"kv_lens": (kv_len,), "q_lens": (draw(st.integers(1, kv_len)),)}
        where: dict[str, Any] = {"block_table": (tuple(row),), **lens}
    else:
        where = {"slots": tuple(page * page_size + draw(st.integers(0, page_size - 1)) for page in pages)}
    return AppendCase(
        problem=problem,
        num_pages=num_pages,
        kv_layout=draw(among(*kv_layouts)),
        interleaved=draw(among(*interleaved)),
        seed=draw(whole(0, 2**16)),
        **where,
    )


@st.composite
def _slots(draw: st.DrawFn, page_size: int) -> dict[str, Any]:
    """Fields of an ``AppendCase`` with slots of its own."""
    num_pages = draw(st.integers(1, 6))
    slots = draw(
        st.lists(st.integers(0, num_pages * page_size - 1), unique=True, max_size=24).flatmap(
            lambda live: st.permutations([*live, *[-1] * (len(live) // 4)])
        )
    )
    return {"num_pages": num_pages, "slots": tuple(slots)}


@st.composite
def _table_places(draw: st.DrawFn, page_size: int) -> dict[str, Any]:
    """Fields of an ``AppendCase`` with a block table: up to four sequences, some without new tokens."""
    kv_lens = draw(st.lists(kv_lengths(page_size, max_len=100), min_size=1, max_size=4))
    q_lens = [draw(st.integers(0, min(n, 12))) for n in kv_lens]
    counts = [pages_needed(n, page_size) for n in kv_lens]
    num_pages = max(1, sum(counts)) + draw(st.integers(0, 2))
    pages = iter(draw(st.permutations(range(num_pages))))
    tail = draw(among(-1, 0, num_pages, INT32_MAX))
    width = max(counts) + draw(st.integers(0, 1))
    rows = [[next(pages) for _ in range(count)] + [tail] * (width - count) for count in counts]
    table = tuple(tuple(row) for row in rows)
    return {"num_pages": num_pages, "block_table": table, "kv_lens": tuple(kv_lens), "q_lens": tuple(q_lens)}


@st.composite
def merge_cases(
    draw: st.DrawFn,
    *,
    dtypes: Sequence[str] = tuple(DTYPES),
    head_dims: Sequence[int] = HEAD_DIMS,
    spreads: Sequence[str] = tuple(SPREADS),
    num_heads: int | None = None,
    num_states: int | None = None,
) -> MergeCase:
    """Up to 20 states of a few rows, none, some or all of them empty."""
    return MergeCase(
        num_states=num_states or draw(st.one_of(st.integers(1, 4), st.integers(1, 20))),
        num_rows=draw(st.integers(1, 6)),
        num_heads=num_heads or draw(st.integers(1, 5)),
        head_dim=draw(among(*sorted(head_dims))),
        dtype=draw(among(*dtypes)),
        spread=draw(among(*spreads)),
        empty=draw(among(*EMPTIES)),
        poison=draw(among(*POISONS)),
        seed=draw(whole(0, 2**16)),
    )
