"""Strategies of problems: heads, sizes, scales, features."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache, lru_cache
from typing import Any

from hypothesis import strategies as st

from pabench.problem.dtypes import DTYPES, E4M3
from pabench.problem.problem import Problem

HEAD_DIMS = (16, 80, 128)
"""A small one, one that is no power of two, and the usual one; each is one more compiled kernel."""
GROUP_SIZES = (1, 2, 3, 4, 5, 7, 8)
PAGE_SIZES = (1, 2, 3, 5, 8, 16, 32, 64)
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


def problems(
    *,
    dtypes: Sequence[str] = tuple(DTYPES),
    head_dims: Sequence[int] = HEAD_DIMS,
    page_sizes: Sequence[int] = PAGE_SIZES,
) -> st.SearchStrategy[Problem]:
    """Problems with the default scale or one far from it."""
    return _problems(tuple(dtypes), tuple(sorted(head_dims)), tuple(sorted(page_sizes)))


@cache  # asked for once a case: Hypothesis validates each new strategy anew
def _problems(
    dtypes: tuple[str, ...], head_dims: tuple[int, ...], page_sizes: tuple[int, ...]
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
        head_counts(),
        st.sampled_from(head_dims),
        st.sampled_from(page_sizes),
        st.sampled_from(dtypes),
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
    mixed = draw(EITHER) if others else False
    if mixed:
        asked |= draw(_features(tuple(others)))
    heads, page_size = problem.num_qo_heads, problem.page_size
    of_feature: dict[str, Callable[[], dict[str, st.SearchStrategy[Any]]]] = {
        "soft-cap": lambda: {"soft_cap": among(30.0, 50.0, 15.0, 1.0, 5000.0)},
        "window": lambda: {"window": _windows(page_size)},
        "alibi": lambda: {
            "alibi_slopes": _per_head(heads, tuple(2.0 ** -(8 * (h + 1) / heads) for h in range(heads)), 2.0)
        },
        "sinks": lambda: {"sinks": _per_head(heads, (0.0, 2.0, -2.0, 10.0, 40.0, -40.0, 200.0, -1e4), 8.0)},
        "fp8-kv": lambda: {
            "kv_dtype": st.just(E4M3.name),
            **dict.fromkeys(("k_scale", "v_scale"), _value_scales(problem.num_kv_heads)),
        },
        "non-causal": lambda: {"causal": st.just(False)},
    }
    return {name: draw(values) for feature in sorted(asked) for name, values in of_feature[feature]().items()}


@cache
def _features(others: tuple[str, ...]) -> st.SearchStrategy[set[str]]:
    return st.sets(st.sampled_from(others), min_size=1, max_size=3)


@cache
def _windows(page_size: int) -> st.SearchStrategy[int]:
    edges = {size * k + d for size in (page_size, TILE_TOKENS) for k in (1, 2) for d in (-1, 0, 1)} - {0}
    return st.one_of(st.just(1), st.sampled_from(sorted(edges)), st.integers(1, 200), st.just(5000))


@cache
def _value_scales(num_kv_heads: int) -> st.SearchStrategy[list[float]]:
    scales = st.sampled_from([1.0, 0.25, 3.0, 0.0625])
    return st.lists(scales, min_size=num_kv_heads, max_size=num_kv_heads) | scales.map(lambda scale: [scale])


@cache
def _per_head(heads: int, usual: tuple[float, ...], reach: float) -> st.SearchStrategy[list[float]]:
    """One number a head: some of the usual ones, 0, or any up to ``reach`` either way."""
    number = st.one_of(st.sampled_from([*usual, 0.0]), st.floats(-reach, reach, width=16))
    return st.lists(number, min_size=heads, max_size=heads)
