"""Strategies of caches whose K and V differ, are one, or have gaps between their pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from hypothesis import strategies as st

from pabench.problem.problem import Problem

LATENT_DIMS = ((24, 16), (72, 64), (576, 512))
"""``head_dim`` and ``head_dim_v``: small ones, and those of DeepSeek-V2 and after."""
APART_DIMS = ((24, 16), (16, 24), (192, 128))
"""Likewise without a latent: longer keys, longer values, and those of prefill in DeepSeek-V2."""
LATENT_GROUPS = (1, 2, 4, 5, 16, 17, 128)
LATENT_SCALES = (0.0625, 192.0**-0.5, 0.3, 1.0)
GAPS = (0, 1, 8, 24, 1000)


def latent_problems(problem: Problem, max_head_dim: int) -> st.SearchStrategy[Problem]:
    """``problem`` over a latent cache: one KV head, any number of query heads, a scale of its own."""
    pairs = tuple(pair for pair in LATENT_DIMS if max(pair) <= max_head_dim) or LATENT_DIMS[:1]

    def made(pair: tuple[int, int], heads: int, scale: float) -> Problem:
        # 128 heads of 576 numbers would take a case as long as a hundred others
        heads = heads if pair[0] < 576 else min(heads, 16)
        return replace(
            problem,
            num_qo_heads=heads,
            num_kv_heads=1,
            head_dim=pair[0],
            head_dim_v=pair[1],
            latent=True,
            sm_scale=scale,
        )

    return st.builds(made, _usual(pairs), st.sampled_from(LATENT_GROUPS), st.sampled_from(LATENT_SCALES))


def apart_problems(problem: Problem, max_head_dim: int) -> st.SearchStrategy[Problem]:
    """``problem`` with values of another length than keys."""
    pairs = tuple(pair for pair in APART_DIMS if max(pair) <= max_head_dim) or APART_DIMS[:1]
    return _usual(pairs).map(lambda pair: replace(problem, head_dim=pair[0], head_dim_v=pair[1]))


CACHE_PROBLEMS: dict[str, Callable[[Problem, int], st.SearchStrategy[Problem]]] = {
    "head-dim-v": apart_problems,
    "latent-cache": latent_problems,
}
"""Feature to what makes a problem of it."""


@cache
def _usual(pairs: tuple[tuple[int, int], ...]) -> st.SearchStrategy[tuple[int, int]]:
    """Small dims more often than the large ones, which cost the time of many."""
    small = [pair for pair in pairs if max(pair) <= 128]
    return st.sampled_from([*small * 4, *pairs])


@cache
def page_gaps(latent: bool) -> st.SearchStrategy[tuple[int, int]]:
    """Unused elements behind the pages of K and of V, at least one of them above 0 most of the time."""
    gap = st.sampled_from(GAPS)
    return st.tuples(gap, st.just(0) if latent else gap).map(lambda both: both if any(both) else (8, 0))
