# SPDX-License-Identifier: Apache-2.0
"""Strategies of caches whose K and V differ, are one, or have gaps between their pages."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cache
from typing import Any

from hypothesis import strategies as st

from pabench.problem.problem import Problem

LATENT_DIMS = ((24, 16), (88, 80), (576, 512))
"""``head_dim`` and ``head_dim_v``: small ones, five steps of 16, and those of DeepSeek-V2 and after."""
APART_DIMS = ((24, 16), (16, 24), (48, 32), (32, 48), (192, 128))
"""Likewise without a latent: longer keys, longer values, also where matrix instructions take them whole, and
those of prefill in DeepSeek-V2."""
LATENT_GROUPS = (1, 2, 4, 5, 16, 17, 128)
LATENT_SCALES = (0.0625, 192.0**-0.5, 0.3, 1.0)
GAPS = (0, 1, 8, 24, 1000)
ROW_GAPS = (0, 1, 8, 24)
"""Also those of a row: fewer, since every token and head has one."""
ALIGNED_GAPS = (0, 4, 8, 24)
"""Of formats whose rows hold their scales."""


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


Fields = dict[str, Any]
"""Of a case."""
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


def gap_fields(problem: Problem, interleaved: bool, asked: Collection[str]) -> st.SearchStrategy[Fields]:
    """Fields of a case for gaps of the features ``asked``; with ``kv-strides`` pages may have some too."""
    aligned = problem.kv_format is not None and problem.kv_format.scale is not None
    return _gap_fields(problem.latent, interleaved, aligned, "page-gaps" in asked, "kv-strides" in asked)


@cache
def _gap_fields(
    latent: bool, interleaved: bool, aligned: bool, pages: bool, rows: bool
) -> st.SearchStrategy[Fields]:
    fields: dict[str, st.SearchStrategy[tuple[int, int]]] = {}
    gap = st.sampled_from(ALIGNED_GAPS if aligned else ROW_GAPS)
    far = st.sampled_from((*ALIGNED_GAPS, 1000) if aligned else GAPS)
    none = st.just(0)
    if rows:
        fields["row_gaps"] = st.tuples(gap, none if latent else gap)
        fields["starts"] = st.tuples(far, none if latent or interleaved else far)
    if pages or rows:
        fields["page_gaps"] = st.tuples(far, none if latent else far)
    # at least one of them is there
    least = {"row_gaps": (8, 0)} if rows else {"page_gaps": (8, 0)} if pages else {}
    return st.fixed_dictionaries(fields).map(
        lambda found: found if any(any(found[name]) for name in least) else found | least
    )
