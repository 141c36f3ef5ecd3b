# SPDX-License-Identifier: Apache-2.0
"""Strategies of whole attention cases."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from hypothesis import strategies as st

from pabench.problem.batch import Batch
from pabench.problem.captured import CAPTURED, Capture
from pabench.problem.case import POISONS, Case
from pabench.problem.dtypes import DTYPES
from pabench.problem.families import FAMILIES
from pabench.problem.masks import MASKS
from pabench.problem.placement import HUGE_POOL, PLACEMENTS, TABLE_TAILS
from pabench.problem.pool import KV_LAYOUTS
from pabench.problem.problem import MAX_HEAD_DIM, Problem
from pabench.problem.shape import Shape
from pabench.strategies.caches import CACHE_PROBLEMS, gap_fields
from pabench.strategies.lengths import batches, forks
from pabench.strategies.masks import mask_values, with_fields
from pabench.strategies.shapes import (
    HEAD_DIMS,
    PAGE_SIZES,
    among,
    feature_fields,
    problems,
    sequence_scales,
    whole,
)

HIGH_POOL_BYTES = 2**26
"""Pools with page ids above 65,536 are kept below this, so that they can be poisoned whole."""
SMALL_DIM = 32
"""Largest head dimension there where K and V differ."""
FAR_BATCHES = partial(batches, max_seqs=3, max_len=80, min_len=1)


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    families: Sequence[str] = tuple(FAMILIES),
    poisons: Sequence[str] = POISONS,
    placements: Sequence[str] = PLACEMENTS,
    tails: Sequence[str] = TABLE_TAILS,
    kv_layouts: Sequence[str] = KV_LAYOUTS,
    interleaved: Sequence[bool] = (False, True),
    dtypes: Sequence[str] = tuple(DTYPES),
    head_dims: Sequence[int] = HEAD_DIMS,
    page_sizes: Sequence[int] = PAGE_SIZES,
    heads: st.SearchStrategy[tuple[int, int]] | None = None,
    windows: Sequence[int] = (),
    max_seqs: int = 5,
    max_len: int = 200,
    min_len: int = 0,
    batch: Callable[[int], st.SearchStrategy[Batch]] | None = None,
    features: Collection[str] = (),
    required: Collection[str] = (),
    always: Collection[str] = (),
    max_head_dim: int = MAX_HEAD_DIM,
    sharing: bool = False,
    supported: Callable[[Case], bool] = lambda case: True,
    only: Shape | None = None,
) -> Case:
    """Whole cases.

    Args:
        draw: given by Hypothesis.
        families: input families to choose from.
        poisons: fillings of the slots that no query may read.
        placements: physical orders of the pages; ``high`` is drawn for small pages only.
        tails: contents of unused table entries.
        kv_layouts: NHD, HND or both.
        interleaved: whether K and V may be strided views of one pool.
        dtypes: storage types.
        head_dims: head dimensions.
        page_sizes: tokens of a page.
        heads: strategy of ``(num_qo_heads, num_kv_heads)``, such as ``large_groups()``.
        windows: which windows there may be, where the usual ones are too short.
        max_seqs: largest batch.
        max_len: longest sequence, in tokens.
        min_len: shortest sequence, in tokens.
        batch: strategy of the batch for a page size, such as ``long_batches``; the three limits above then
            have no say.
        features: what half of the cases may have beyond plain attention, see ``feature_fields``.
        required: what every case has.
        always: likewise; for callers who say so for all the cases of a backend.
        max_head_dim: largest head dimension of caches whose K and V differ, see ``caches.py``.
        sharing: whether sequences may begin with pages of an earlier one, see ``forks``.
        supported: cases for which this is false are not drawn.
        only: the shape of all cases, where a backend takes no other; heads and sizes then have no say.
    """
    problem = draw(problems(dtypes=dtypes, head_dims=head_dims, page_sizes=page_sizes, heads=heads))
    asked = {*required, *always}
    for feature in sorted(asked & CACHE_PROBLEMS.keys()):
        problem = draw(CACHE_PROBLEMS[feature](problem, max_head_dim))
    if only is not None:
        problem = only.of(problem)
    if features or asked:
        problem = replace(problem, **draw(feature_fields(problem, features, asked, windows)))
    masked = sorted(asked & MASKS.keys())
    problem = with_fields(problem, masked)
    if batch is None:
        drawn = draw(batches(problem.page_size, max_seqs=max_seqs, max_len=max_len, min_len=min_len))
    else:
        drawn = draw(batch(problem.page_size))
    page_bytes = problem.page_size * problem.token_bytes
    fits = [p for p in placements if p != "high" or page_bytes * 2**16 <= HIGH_POOL_BYTES]
    side_by_side = not problem.latent and draw(among(*interleaved))
    gapped = {"page-gaps", "kv-strides"} & asked
    case = Case(
        problem=problem,
        batch=drawn,
        kv_layout=draw(among(*kv_layouts)),
        interleaved=side_by_side,
        **(draw(gap_fields(problem, side_by_side, gapped)) if gapped else {}),
        family=draw(among(*families)),
        poison=draw(among(*poisons)),
        placement=draw(among(*(fits or ["shuffled"]))),
        tail=draw(among(*tails)),
        spare_pages=draw(whole(0, 4)),
        seed=draw(whole(0, 2**16)),
        scales=draw(sequence_scales(problem, drawn.num_seqs)) if "sequence-scales" in asked else (),
        masks=tuple((name, draw(mask_values(MASKS[name], problem, drawn))) for name in masked),
        shared_prefix=draw(forks(drawn.kv_lens, problem.page_size)) if sharing else (),
    )
    if not supported(case):
        from hypothesis import reject

        reject()
    return case


@st.composite
def captured_cases(
    draw: st.DrawFn,
    capture: Capture,
    /,
    *,
    dtypes: Sequence[str] = tuple(DTYPES),
    kv_layouts: Sequence[str] = KV_LAYOUTS,
    interleaved: Sequence[bool] = (False, True),
    max_rows: int = 1,
    supported: Callable[[Case], bool] = lambda case: True,
) -> Case:
    """Cases whose queries, keys and values a real model made.

    Args:
        draw: given by Hypothesis.
        capture: what is drawn from; its heads and its scale are the problem's.
        dtypes: storage types to round to.
        kv_layouts: NHD, HND or both.
        interleaved: whether K and V may be strided views of one pool.
        max_rows: most query tokens of a sequence.
        supported: cases for which this is false are not drawn.
    """
    problem = capture.problem(page_size=draw(among(1, 3, 8, 16, 32, 64)), dtype=draw(among(*dtypes)))
    # whole sequences too, since it is the far keys that are rarely as in random data
    lengths = st.integers(1, capture.longest) | st.sampled_from(sorted(set(capture.lengths)))
    kv_lens = draw(st.lists(lengths, min_size=1, max_size=4))
    q_lens = [min(length, draw(st.integers(1, max_rows))) for length in kv_lens]
    case = Case(
        problem=problem,
        batch=Batch(kv_lens=tuple(kv_lens), q_lens=tuple(q_lens)),
        kv_layout=draw(among(*kv_layouts)),
        interleaved=draw(among(*interleaved)),
        family=CAPTURED,
        inputs=capture.id,
        poison=draw(among(*POISONS)),
        placement=draw(among("shuffled", "identity", "reversed")),
        tail=draw(among(*TABLE_TAILS)),
        seed=draw(whole(0, 2**16)),
    )
    if not supported(case):
        from hypothesis import reject

        reject()
    return case


@st.composite
def high_page_cases(
    draw: st.DrawFn,
    /,
    *,
    dtypes: Sequence[str] = tuple(DTYPES),
    always: Collection[str] = (),
    **choices: Any,
) -> Case:
    """Cases whose page ids lie around and above 65,536, over pages of at most 1 KiB.

    ``choices`` are ``kv_layouts``, ``interleaved``, ``batch`` and ``supported`` of ``cases``, and ``always``
    is, as far as it is about the cache.
    """
    dtype = draw(among(*dtypes))
    page_size = draw(st.sampled_from([1, 2, 3, 4] if dtype != "float32" else [1, 2]))
    group = draw(among(1, 2, 3))
    problem = Problem(num_qo_heads=2 * group, num_kv_heads=2, head_dim=16, page_size=page_size, dtype=dtype)
    return draw(_far_cases(problem, "high", always=always, **choices))


@st.composite
def huge_pool_cases(
    draw: st.DrawFn,
    /,
    *,
    dtypes: Sequence[str] = tuple(DTYPES),
    always: Collection[str] = (),
    **choices: Any,
) -> Case:
    """Cases whose pages lie where offsets of 31 and 32 bits wrap, in up to 32 GiB of address space.

    ``choices`` are those of ``high_page_cases``.
    """
    group, num_kv_heads = draw(among(1, 2, 3)), draw(among(2, 1, 3))
    problem = Problem(
        num_qo_heads=num_kv_heads * group,
        num_kv_heads=num_kv_heads,
        head_dim=16,
        page_size=draw(among(1, 2, 5, 16)),
        dtype=draw(among(*dtypes)),
    )
    return draw(_far_cases(problem, HUGE_POOL, always=always, **choices))


@st.composite
def _far_cases(
    draw: st.DrawFn,
    problem: Problem,
    placement: str,
    *,
    always: Collection[str],
    kv_layouts: Sequence[str] = KV_LAYOUTS,
    interleaved: Sequence[bool] = (False, True),
    batch: Callable[[int], st.SearchStrategy[Batch]] = FAR_BATCHES,
    supported: Callable[[Case], bool] = lambda case: True,
) -> Case:
    for feature in sorted(CACHE_PROBLEMS.keys() & always):
        problem = draw(CACHE_PROBLEMS[feature](problem, SMALL_DIM))
    case = Case(
        problem=problem,
        batch=draw(batch(problem.page_size)),
        kv_layout=draw(among(*kv_layouts)),
        interleaved=not problem.latent and draw(among(*interleaved)),
        family=draw(among("needle", "normal", "spotlight")),
        poison=draw(among("nan", "zero")),
        placement=placement,
        seed=draw(whole(0, 2**16)),
    )
    if not supported(case):
        from hypothesis import reject

        reject()
    return case
