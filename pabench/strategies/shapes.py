# SPDX-License-Identifier: Apache-2.0
"""Strategies of problems: heads, sizes, scales, features."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache, lru_cache, partial
from typing import Any

from hypothesis import strategies as st

from pabench.problem.dtypes import DTYPES, E4M3
from pabench.problem.formats import FORMATS, CacheFormat
from pabench.problem.problem import FEATURES, Problem

HEAD_DIMS = (16, 80, 128)
"""A small one, one that is no power of two, and the usual one; each is one more compiled kernel."""
OTHER_HEAD_DIMS = (64, 72, 96, 112)
"""Other ones of published models; 72 is no multiple of 16."""
WIDE_HEAD_DIMS = (192, 256, 512, 576)
"""Beyond 128, for which kernels often have code of their own."""
ALL_HEAD_DIMS = tuple(sorted({*HEAD_DIMS, *OTHER_HEAD_DIMS, *WIDE_HEAD_DIMS}))
GROUP_SIZES = (1, 2, 3, 4, 5, 7, 8)
LARGE_GROUPS = (9, 12, 16, 17, 20, 24, 29, 32, 40, 48, 64, 71, 96, 128)
"""Query heads for each KV head beyond 8: multiples of 16, between them, and primes."""
MOST_LARGE_HEADS = 144
"""Query heads of a problem with a large group, so that one case costs as much as another."""
PAGE_SIZES = (1, 2, 3, 5, 8, 16, 32, 64)
LARGE_PAGE_SIZES = (96, 100, 128, 256, 300, 512)
ALL_PAGE_SIZES = (*PAGE_SIZES, *LARGE_PAGE_SIZES)
TILE_TOKENS = 32
EITHER = st.booleans()


@lru_cache(maxsize=4096, typed=True)
def among(*values: Any) -> st.SearchStrategy[Any]:
    """One of ``values``; made once, for a case asks for many and Hypothesis validates each new strategy."""
    return st.sampled_from(values)


@cache
def whole(low: int, high: int) -> st.SearchStrategy[int]:
    """Whole numbers from ``low`` to ``high``, likewise made once."""
    return st.integers(low, high)


@cache
def head_counts(max_qo_heads: int = 16) -> st.SearchStrategy[tuple[int, int]]:
    """``(num_qo_heads, num_kv_heads)``: MHA, GQA of every group size, MQA."""
    pairs = [(group * kv, kv) for kv in (1, 2, 3, 4) for group in GROUP_SIZES if group * kv <= max_qo_heads]
    return st.sampled_from(sorted(pairs))


@cache
def many_kv_heads() -> st.SearchStrategy[tuple[int, int]]:
    """``(num_qo_heads, num_kv_heads)`` with more KV heads than ``head_counts`` has: 5 to 32."""
    return st.sampled_from(
        [(5, 5), (8, 8), (10, 5), (12, 12), (16, 8), (32, 8), (33, 11), (32, 32), (40, 10)]
    )


@cache
def large_groups(groups: tuple[int, ...] = LARGE_GROUPS) -> st.SearchStrategy[tuple[int, int]]:
    """``(num_qo_heads, num_kv_heads)`` of groups beyond 8, one to four KV heads.

    Half of the draws are groups above 16 that are no multiple of 16, with two KV heads or more: a tile of 16
    query heads then spans two KV heads.
    """
    pairs = sorted(
        (group * kv, kv)
        for kv in (1, 2, 3, 4)
        for group in groups
        if kv == 1 or group * kv <= MOST_LARGE_HEADS
    )
    across = [pair for pair in pairs if spans_kv_heads(*pair)]
    return st.one_of(st.sampled_from(pairs), st.sampled_from(across or pairs))


def spans_kv_heads(num_qo_heads: int, num_kv_heads: int) -> bool:
    """Whether a group above 16 is no multiple of 16, and another KV head's group follows it."""
    group = num_qo_heads // num_kv_heads
    return num_kv_heads > 1 and group > 16 and group % 16 > 0


def problems(
    *,
    dtypes: Sequence[str] = tuple(DTYPES),
    head_dims: Sequence[int] = HEAD_DIMS,
    page_sizes: Sequence[int] = PAGE_SIZES,
    heads: st.SearchStrategy[tuple[int, int]] | None = None,
) -> st.SearchStrategy[Problem]:
    """Problems with the default scale or one far from it; ``heads`` are ``head_counts()`` unless given."""
    pairs = head_counts() if heads is None else heads
    return _problems(tuple(dtypes), tuple(sorted(head_dims)), tuple(sorted(page_sizes)), pairs)


@cache  # asked for once a case: Hypothesis validates each new strategy anew
def _problems(
    dtypes: tuple[str, ...],
    head_dims: tuple[int, ...],
    page_sizes: tuple[int, ...],
    head_pairs: st.SearchStrategy[tuple[int, int]],
) -> st.SearchStrategy[Problem]:
    return st.builds(
        lambda heads, head_dim, page_size, dtype, sm_scale: Problem(
            num_qo_heads=heads[0],
            num_kv_heads=heads[1],
            head_dim=head_dim,
            page_size=page_size,
            dtype=dtype,
            sm_scale=sm_scale,
        ),
        head_pairs,
        st.sampled_from(head_dims),
        st.sampled_from(page_sizes),
        st.sampled_from(dtypes),
        st.sampled_from([None, None, None, 0.0625, 1.0]),
    )


@st.composite
def feature_fields(
    draw: st.DrawFn,
    problem: Problem,
    features: Collection[str] = (),
    required: Collection[str] = (),
    windows: Sequence[int] = (),
) -> dict[str, Any]:
    """Fields of ``Problem`` for at most three of ``features`` and all of ``required``.

    Half of the draws have none but the required ones.  Windows end at and beside page and tile edges, hold
    one key, or more than there are, unless ``windows`` says which there may be; sinks and slopes are drawn
    for each query head, far beyond the logits and of no weight among them.
    """
    # how a cache lies is drawn with the problem itself, and masks with the batch
    formats = {row.feature: row for row in FORMATS.values() if row.feature in required}
    asked = set(required) & (set(FEATURES) | formats.keys() | {"fp8-q"})
    by_sequence = "sequence-scales" in required
    if by_sequence and "fp8-q" not in asked and not any(row.tensor_scale for row in formats.values()):
        # there must be something to scale
        asked.add("fp8-kv")
    # a cache has one format
    others = sorted(set(features) & set(FEATURES) - asked - ({"fp8-kv"} if formats else set()))
    mixed = draw(EITHER) if others else False
    if mixed:
        asked |= draw(_features(tuple(others)))
    heads, page_size = problem.num_qo_heads, problem.page_size
    of_feature: dict[str, Callable[[], dict[str, st.SearchStrategy[Any]]]] = {
        "soft-cap": lambda: {"soft_cap": among(30.0, 50.0, 15.0, 1.0, 5000.0)},
        "window": lambda: {"window": among(*windows) if windows else _windows(page_size)},
        "alibi": lambda: {
            "alibi_slopes": _per_head(heads, tuple(2.0 ** -(8 * (h + 1) / heads) for h in range(heads)), 2.0)
        },
        "sinks": lambda: {"sinks": _per_head(heads, (0.0, 2.0, -2.0, 10.0, 40.0, -40.0, 200.0, -1e4), 8.0)},
        **{row.feature: partial(_format_fields, row, problem, by_sequence) for row in FORMATS.values()},
        "fp8-q": lambda: (
            {"q_dtype": st.just(E4M3.name)}
            | ({} if by_sequence else {"q_scale": _value_scales(problem.num_kv_heads)})
        ),
        "non-causal": lambda: {"causal": st.just(False)},
    }
    return {name: draw(values) for feature in sorted(asked) for name, values in of_feature[feature]().items()}


def _format_fields(
    row: CacheFormat, problem: Problem, by_sequence: bool
) -> dict[str, st.SearchStrategy[Any]]:
    # values that lie in the keys have their scale
    kinds = ("k_scale",) if problem.latent else ("k_scale", "v_scale")
    scaled = kinds if row.tensor_scale and not by_sequence else ()
    return {"kv_dtype": st.just(row.name), **dict.fromkeys(scaled, _value_scales(problem.num_kv_heads))}


@cache
def _features(others: tuple[str, ...]) -> st.SearchStrategy[set[str]]:
    return st.sets(st.sampled_from(others), min_size=1, max_size=3)


@cache
def _windows(page_size: int) -> st.SearchStrategy[int]:
    edges = {size * k + d for size in (page_size, TILE_TOKENS) for k in (1, 2) for d in (-1, 0, 1)} - {0}
    return st.one_of(st.just(1), st.sampled_from(sorted(edges)), st.integers(1, 200), st.just(5000))


def sequence_scales(problem: Problem, num_seqs: int) -> st.SearchStrategy[Any]:
    """``scales`` of a case: of all that has some, few of them alike."""
    row = st.lists(NUMBERS_OF_SCALES, min_size=problem.num_kv_heads, max_size=problem.num_kv_heads)
    rows = st.lists(row, min_size=num_seqs, max_size=num_seqs)
    return st.fixed_dictionaries({kind: rows for kind in "qkv" if problem.takes_scale(kind)})


NUMBERS_OF_SCALES = st.sampled_from([1.0, 0.25, 3.0, 0.0625, 0.7])


@cache
def _value_scales(num_kv_heads: int) -> st.SearchStrategy[list[float]]:
    scales = st.sampled_from([1.0, 0.25, 3.0, 0.0625])
    return st.lists(scales, min_size=num_kv_heads, max_size=num_kv_heads) | scales.map(lambda scale: [scale])


MOST_DRAWN_HEADS = 16
"""Beyond so many heads their numbers come round again: Hypothesis bounds how much one case may draw."""


@cache
def _per_head(heads: int, usual: tuple[float, ...], reach: float) -> st.SearchStrategy[list[float]]:
    """One number a head: some of the usual ones, 0, or any up to ``reach`` either way."""
    number = st.one_of(st.sampled_from([*usual[:MOST_DRAWN_HEADS], 0.0]), st.floats(-reach, reach, width=16))
    # 13 shares no factor with a group or a tile of heads, so that a mistaken head shows
    count = heads if heads <= MOST_DRAWN_HEADS else 13
    drawn = st.lists(number, min_size=count, max_size=count)
    return drawn if count == heads else drawn.map(lambda few: [few[at % count] for at in range(heads)])
