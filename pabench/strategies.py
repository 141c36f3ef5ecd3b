"""Public Hypothesis strategies over problems, batches and cases.

Anyone's property test can draw our cases::

    from hypothesis import given
    from pabench.strategies import cases

    @given(cases(families=["needle"], poisons=["nan"]))
    def test_my_kernel(case): ...

Draws shrink towards few short sequences, small pages and few heads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from pabench.problem.append import AppendCase
from pabench.problem.batch import SPECULATIVE_TOKENS, Batch
from pabench.problem.case import POISONS, Case
from pabench.problem.dtypes import DTYPES, E4M3
from pabench.problem.families import FAMILIES
from pabench.problem.placement import PLACEMENTS, TABLE_TAILS
from pabench.problem.pool import KV_LAYOUTS
from pabench.problem.problem import Problem

HEAD_DIMS = (16, 80, 128)
"""A small one, one that is no power of two, and the usual one; each is one more compiled kernel."""
GROUP_SIZES = (1, 2, 3, 4, 5, 7, 8)
PAGE_SIZES = (1, 2, 3, 5, 8, 16, 32, 64)
TILE_TOKENS = 32
HIGH_POOL_BYTES = 2**26
"""Pools with page ids above 65,536 are kept below this, so that they can be poisoned whole."""


def head_counts(max_qo_heads: int = 16) -> st.SearchStrategy[tuple[int, int]]:
    """``(num_qo_heads, num_kv_heads)``: MHA, GQA of every group size, MQA."""
    pairs = [(group * kv, kv) for kv in (1, 2, 3, 4) for group in GROUP_SIZES if group * kv <= max_qo_heads]
    return st.sampled_from(sorted(pairs))


def problems(
    *,
    dtypes: Sequence[str] = tuple(DTYPES),
    head_dims: Sequence[int] = HEAD_DIMS,
    page_sizes: Sequence[int] = PAGE_SIZES,
) -> st.SearchStrategy[Problem]:
    """Problems with the default scale or one far from it."""
    return st.builds(
        lambda heads, head_dim, page_size, dtype, sm_scale: Problem(
            num_qo_heads=heads[0],
            num_kv_heads=heads[1],
            head_dim=head_dim,
            page_size=page_size,
            dtype=dtype,
            sm_scale=sm_scale,
        ),
        head_counts(),
        st.sampled_from(sorted(head_dims)),
        st.sampled_from(sorted(page_sizes)),
        st.sampled_from(list(dtypes)),
        st.sampled_from([None, None, None, 0.0625, 1.0]),
    )


@st.composite
def feature_fields(
    draw: st.DrawFn, problem: Problem, features: Collection[str] = (), required: Collection[str] = ()
) -> dict[str, Any]:
    """Fields of ``Problem`` for at most three of ``features`` and all of ``required``.

    Half of the draws have none but the required ones.  Windows end at and beside page and tile edges, hold
    one key, or more than there are; sinks and slopes are drawn for each query head, far beyond the logits and
    of no weight among them.
    """
    asked = set(required)
    others = sorted(set(features) - asked)
    mixed = draw(st.booleans()) if others else False
    if mixed:
        asked |= draw(st.sets(st.sampled_from(others), min_size=1, max_size=3))
    heads, page_size = problem.num_qo_heads, problem.page_size
    edges = {size * k + d for size in (page_size, TILE_TOKENS) for k in (1, 2) for d in (-1, 0, 1)} - {0}
    scales = st.sampled_from([1.0, 0.25, 3.0, 0.0625])
    several = st.lists(scales, min_size=problem.num_kv_heads, max_size=problem.num_kv_heads)
    of_heads = several | scales.map(lambda scale: [scale])
    fields: dict[str, dict[str, st.SearchStrategy[Any]]] = {
        "soft-cap": {"soft_cap": st.sampled_from([30.0, 50.0, 15.0, 1.0, 5000.0])},
        "window": {
            "window": st.one_of(
                st.just(1), st.sampled_from(sorted(edges)), st.integers(1, 200), st.just(5000)
            )
        },
        "alibi": {
            "alibi_slopes": _per_head(heads, [2.0 ** -(8 * (h + 1) / heads) for h in range(heads)], 2.0)
        },
        "sinks": {"sinks": _per_head(heads, [0.0, 2.0, -2.0, 10.0, 40.0, -40.0, 200.0, -1e4], 8.0)},
        "fp8-kv": {"kv_dtype": st.just(E4M3.name), "k_scale": of_heads, "v_scale": of_heads},
        "non-causal": {"causal": st.just(False)},
    }
    return {name: draw(values) for feature in sorted(asked) for name, values in fields[feature].items()}


def _per_head(heads: int, usual: Sequence[float], reach: float) -> st.SearchStrategy[list[float]]:
    """One number a head: some of the usual ones, 0, or any up to ``reach`` either way."""
    number = st.one_of(st.sampled_from([*usual, 0.0]), st.floats(-reach, reach, width=16))
    return st.lists(number, min_size=heads, max_size=heads)


def kv_lengths(page_size: int, *, max_len: int = 200, min_len: int = 0) -> st.SearchStrategy[int]:
    """Lengths at and beside the edges of pages and of 32-token tiles, and any other."""
    edges = {0, 1}
    for step in (page_size, TILE_TOKENS, 2 * TILE_TOKENS):
        edges |= {step * k + d for k in (1, 2, 3) for d in (-1, 0, 1)}
    near = sorted(n for n in edges if min_len <= n <= max_len)
    # any length first: what fails at an edge shrinks on to the shortest length that fails
    return st.one_of(st.integers(min_len, max_len), st.sampled_from(near or [min_len]))


def batches(
    page_size: int, *, max_seqs: int = 5, max_len: int = 200, min_len: int = 0
) -> st.SearchStrategy[Batch]:
    """Ragged decode batches of one to ``max_seqs`` sequences."""
    lengths = kv_lengths(page_size, max_len=max_len, min_len=min_len)
    return st.lists(lengths, min_size=1, max_size=max_seqs).map(lambda lens: Batch(kv_lens=tuple(lens)))


@st.composite
def long_batches(draw: st.DrawFn, page_size: int, *, max_len: int = 3000) -> Batch:
    """One sequence long enough for a kernel to split its keys, beside at most two short or empty ones."""
    edges = sorted({size * k + d for size in (256, 512, 1024) for k in (1, 2) for d in (-1, 0, 1, 33)})
    longest = draw(st.one_of(st.integers(513, max_len), st.sampled_from([n for n in edges if n > 512])))
    others = draw(st.lists(st.one_of(st.just(0), kv_lengths(page_size)), max_size=2))
    return Batch(kv_lens=tuple(draw(st.permutations([longest, *others]))))


@st.composite
def prefill_batches(
    draw: st.DrawFn, page_size: int, *, max_seqs: int = 3, max_len: int = 100, max_rows: int = 40
) -> Batch:
    """Ragged batches with several query rows in some sequence: chunks, whole prompts, none, too many."""
    kv_lens, q_lens = [], []
    for _ in range(draw(st.integers(1, max_seqs))):
        kv_len = draw(kv_lengths(page_size, max_len=max_len))
        near = sorted({0, 1, 2, 15, 17, 33} | {max(0, kv_len + d) for d in (-1, 0, 1, 2)})
        short = [n for n in near if n <= max_rows]
        q_lens.append(draw(st.one_of(st.integers(1, 8), st.sampled_from(short))))
        kv_lens.append(kv_len)
    if max(q_lens) < 2:
        q_lens[0] = 2
    return Batch(kv_lens=tuple(kv_lens), q_lens=tuple(q_lens))


@st.composite
def long_prefill_batches(
    draw: st.DrawFn, page_size: int, *, max_len: int = 500, max_rows: int = 140
) -> Batch:
    """A prompt or chunk over many tiles of a kernel, beside at most one short sequence."""
    queries = draw(st.one_of(st.integers(9, max_rows), st.sampled_from([63, 64, 65, 128, 129])))
    kv_len = draw(st.one_of(st.just(queries), st.integers(max(130, queries), max_len)))
    pairs = [(kv_len, queries)]
    if draw(st.booleans()):
        pairs.append((draw(kv_lengths(page_size, max_len=100)), draw(st.integers(0, 8))))
    chosen = draw(st.permutations(pairs))
    return Batch(kv_lens=tuple(kv for kv, _ in chosen), q_lens=tuple(rows for _, rows in chosen))


@st.composite
def speculative_batches(draw: st.DrawFn, page_size: int, *, max_seqs: int = 4, max_len: int = 200) -> Batch:
    """Ragged batches of 0 to 8 query tokens a sequence; some have fewer keys than query tokens."""
    lengths = st.one_of(kv_lengths(page_size, max_len=max_len), st.integers(0, SPECULATIVE_TOKENS))
    pairs = st.lists(st.tuples(lengths, st.integers(0, SPECULATIVE_TOKENS)), min_size=1, max_size=max_seqs)
    chosen = draw(pairs.filter(lambda found: any(queries for _, queries in found)))
    return Batch(kv_lens=tuple(kv for kv, _ in chosen), q_lens=tuple(queries for _, queries in chosen))


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
    max_seqs: int = 5,
    max_len: int = 200,
    min_len: int = 0,
    batch: Callable[[int], st.SearchStrategy[Batch]] | None = None,
    features: Collection[str] = (),
    required: Collection[str] = (),
    supported: Callable[[Case], bool] = lambda case: True,
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
        max_seqs: largest batch.
        max_len: longest sequence, in tokens.
        min_len: shortest sequence, in tokens.
        batch: strategy of the batch for a page size, such as ``long_batches``; the three limits above then
            have no say.
        features: what half of the cases may have beyond plain attention, see ``feature_fields``.
        required: what every case has.
        supported: cases for which this is false are not drawn.
    """
    problem = draw(problems(dtypes=dtypes, head_dims=head_dims))
    if features or required:
        problem = replace(problem, **draw(feature_fields(problem, features, required)))
    if batch is None:
        drawn = draw(batches(problem.page_size, max_seqs=max_seqs, max_len=max_len, min_len=min_len))
    else:
        drawn = draw(batch(problem.page_size))
    page_bytes = problem.page_size * problem.token_bytes
    fits = [p for p in placements if p != "high" or page_bytes * 2**16 <= HIGH_POOL_BYTES]
    case = Case(
        problem=problem,
        batch=drawn,
        kv_layout=draw(st.sampled_from(list(kv_layouts))),
        interleaved=draw(st.sampled_from(list(interleaved))),
        family=draw(st.sampled_from(list(families))),
        poison=draw(st.sampled_from(list(poisons))),
        placement=draw(st.sampled_from(fits or ["shuffled"])),
        tail=draw(st.sampled_from(list(tails))),
        spare_pages=draw(st.integers(0, 4)),
        seed=draw(st.integers(0, 2**16)),
    )
    if not supported(case):
        from hypothesis import reject

        reject()
    return case


@st.composite
def high_page_cases(
    draw: st.DrawFn,
    *,
    kv_layouts: Sequence[str] = KV_LAYOUTS,
    interleaved: Sequence[bool] = (False, True),
    dtypes: Sequence[str] = tuple(DTYPES),
    supported: Callable[[Case], bool] = lambda case: True,
) -> Case:
    """Cases whose page ids lie around and above 65,536, over pages of at most 1 KiB."""
    dtype = draw(st.sampled_from(list(dtypes)))
    page_size = draw(st.sampled_from([1, 2, 3, 4] if dtype != "float32" else [1, 2]))
    group = draw(st.sampled_from([1, 2, 3]))
    problem = Problem(num_qo_heads=2 * group, num_kv_heads=2, head_dim=16, page_size=page_size, dtype=dtype)
    case = Case(
        problem=problem,
        batch=draw(batches(page_size, max_seqs=3, max_len=80, min_len=1)),
        kv_layout=draw(st.sampled_from(list(kv_layouts))),
        interleaved=draw(st.sampled_from(list(interleaved))),
        family=draw(st.sampled_from(["needle", "normal", "spotlight"])),
        poison=draw(st.sampled_from(["nan", "zero"])),
        placement="high",
        seed=draw(st.integers(0, 2**16)),
    )
    if not supported(case):
        from hypothesis import reject

        reject()
    return case


@st.composite
def append_cases(
    draw: st.DrawFn,
    *,
    kv_layouts: Sequence[str] = KV_LAYOUTS,
    interleaved: Sequence[bool] = (False, True),
    dtypes: Sequence[str] = tuple(DTYPES),
    head_dims: Sequence[int] = HEAD_DIMS,
) -> AppendCase:
    """Tokens scattered over a small pool, some of them skipped, pages in any order."""
    problem = draw(problems(dtypes=dtypes, head_dims=head_dims))
    num_pages = draw(st.integers(1, 6))
    slots = draw(
        st.lists(st.integers(0, num_pages * problem.page_size - 1), unique=True, max_size=24).flatmap(
            lambda live: st.permutations([*live, *[-1] * (len(live) // 4)])
        )
    )
    return AppendCase(
        problem=problem,
        num_pages=num_pages,
        slots=tuple(slots),
        kv_layout=draw(st.sampled_from(list(kv_layouts))),
        interleaved=draw(st.sampled_from(list(interleaved))),
        seed=draw(st.integers(0, 2**16)),
    )
