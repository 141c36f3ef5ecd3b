# SPDX-License-Identifier: Apache-2.0
"""Writing new tokens into the cache, copying its pages, and gathering them into dense rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from pabench.checks.append_checks import (
    check_append,
    check_append_e4m3,
    check_append_paged,
    check_append_stored,
)
from pabench.checks.copy_checks import check_copy
from pabench.checks.gather_checks import check_gather
from pabench.checks.huge_pool_checks import (
    check_append_huge_pool,
    check_append_paged_huge_pool,
    check_copy_huge_pool,
)
from pabench.checks.question import Check, Question
from pabench.checks.questions.decode import no_huge_pools
from pabench.checks.reject_checks import check_append_reject
from pabench.problem.case import Case
from pabench.problem.dtypes import DTYPES
from pabench.problem.formats import FORMATS
from pabench.strategies import APPEND_SCALES, append_cases, cases, high_append_cases, huge_pool_cases
from pabench.strategies.cache import SMALL_DIM
from pabench.strategies.caches import CACHE_PROBLEMS
from pabench.strategies.drawn import Range
from pabench.subjects.backends.base import HUGE_POOL_WRITES

APPEND = Check(id="append", operation="append", run=check_append, kind="append")
E4M3 = Check(id="append-e4m3", operation="append-e4m3", run=check_append_e4m3, kind="append")
STORED = Check(id="append-stored", operation="append-stored", run=check_append_stored, kind="append")
PAGED = Check(id="append-paged", operation="append-paged", run=check_append_paged, kind="append")
REJECT = Check(id="append-reject", operation="append", run=check_append_reject, kind="append")
COPY = Check(id="copy-pages", operation="copy-pages", run=check_copy, kind="append")
HUGE_POOL_APPEND = Check(
    id="append-huge-pool", operation=HUGE_POOL_WRITES, run=check_append_huge_pool, kind="append"
)
HUGE_POOL_PAGED = Check(
    id="append-paged-huge-pool", operation=HUGE_POOL_WRITES, run=check_append_paged_huge_pool, kind="append"
)
HUGE_POOL_COPY = Check(
    id="copy-pages-huge-pool", operation=HUGE_POOL_WRITES, run=check_copy_huge_pool, kind="append"
)
GATHER = Check(id="gather", operation="gather", run=check_gather)

HIGH = "Pages around 65,536, where an id cut to 16 bits names another page."
MOST_PAGE_BYTES = 256
"""Of the keys of a page in a cache of 65,536 pages."""
LONG_SCALES = {"bfloat16": 1.8263888359069824, "float16": 1.7786458730697632, "float32": 2.3333332538604736}
"""Storage type to a scale of many bits; of 16 bits, to one whose product with 9 float32 rounds to a tie."""


def _formats(declared: Range) -> tuple[str, ...]:
    """Names of the formats that a backend declares, e4m3 last: it has a question of its own."""
    return tuple(row.name for row in reversed(FORMATS.values()) if row.feature in declared.features)


def _appended(declared: Range) -> tuple[str | None, ...]:
    """Formats of caches that a backend appends to, None for one stored as its tokens are."""
    if declared.offers("append-stored"):
        return (None, *_formats(declared))
    return (None, "e4m3") if declared.offers("append-e4m3") else (None,)


def _caches(declared: Range) -> tuple[str, ...]:
    """Features of caches whose K and V differ or are one, that a backend declares."""
    return tuple(name for name in CACHE_PROBLEMS if name in declared.features)


def _gaps(declared: Range) -> tuple[str, ...]:
    """Which gaps of a pool a backend takes."""
    return tuple(name for name in ("page-gaps", "kv-strides") if name in declared.features)


def _pools(declared: Range) -> dict[str, Any]:
    """Arguments of ``append_cases`` for the pools that a backend takes."""
    return {"caches": _caches(declared), "gaps": _gaps(declared)}


def _large_pages(declared: Range) -> str | None:
    """Why a cache of 65,536 pages is too large for a kernel that is compiled for one shape, or None."""
    only = declared.only
    if only is None:
        return None
    largest = max(DTYPES[name].storage.itemsize for name in declared.dtypes)
    row = only.page_size * only.num_kv_heads * only.head_dim * largest
    if row <= MOST_PAGE_BYTES:
        return None
    return f"65,536 pages of {row} bytes are too large a cache: at most {MOST_PAGE_BYTES} bytes a page"


def _stored(declared: Range) -> Any:
    return append_cases(**declared.appends, **_pools(declared), formats=_formats(declared))


def _no_formats(declared: Range) -> str | None:
    return None if _formats(declared) else f"{declared.subject} offers no format of a cache"


def _paged(declared: Range) -> Any:
    return append_cases(**declared.appends, **_pools(declared), paged=True, formats=_appended(declared))


def few_sizes(declared: Range) -> dict[str, Any]:
    """Arguments of ``append_cases`` for pools that are large by the number of their pages alone."""
    return {**declared.layouts, "head_dims": declared.head_dims([16])}


def _many_pages(declared: Range) -> Any:
    drawn = append_cases(**few_sizes(declared))
    return st.builds(lambda case, pages: replace(case, num_pages=pages), drawn, st.sampled_from([300, 129]))


def _gathered(declared: Range) -> Any:
    formats = [row.feature for row in FORMATS.values() if row.feature in declared.features]
    kinds = [*_caches(declared), *_gaps(declared)]
    # of e4m3 as many as of all others: numbers that are rounded twice differ in few places
    e4m3 = FORMATS["e4m3"].feature
    often = [e4m3] * len(formats) if e4m3 in formats else []
    asked = st.tuples(
        st.sampled_from([*[None] * (1 + len(formats) // 3), *formats, *often]),
        st.sampled_from([None, None, *kinds]),
    )

    def drawn(names: tuple[str | None, str | None]) -> Any:
        required = [name for name in names if name is not None]
        families = ["normal", "needle", "saturating"]
        return cases(families=families, required=required, max_head_dim=SMALL_DIM, **declared.choices)

    return st.builds(_scaled, asked.flatmap(drawn), st.sampled_from(APPEND_SCALES), st.booleans())


def _scaled(case: Case, scale: float, long: bool) -> Case:
    """Another scale of the keys, which may be long, so that products round, and may do so twice."""
    problem = case.problem
    scale = LONG_SCALES[problem.dtype] if long else scale
    if problem.kv_format is None or not problem.kv_format.tensor_scale:
        return case
    return replace(case, problem=replace(problem, k_scale=(scale,)))


APPENDS = (
    Question(
        check=APPEND,
        clauses=("A1", "A2", "C7"),
        draw=lambda declared: append_cases(**declared.appends, **_pools(declared)),
        share=2.0,
    ),
    Question(
        check=E4M3,
        clauses=("A2", "A4"),
        draw=lambda declared: append_cases(**declared.appends, gaps=_gaps(declared), formats=["e4m3"]),
    ),
    Question(check=STORED, clauses=("A2", "A6"), draw=_stored, unasked=_no_formats),
    Question(check=PAGED, clauses=("A2", "A5"), draw=_paged),
    Question(
        check=APPEND,
        clauses=("A1", "A2"),
        draw=lambda declared: high_append_cases(**declared.layouts, only=declared.only),
        label="high-page-ids",
        about=HIGH,
        share=0.15,
        unasked=_large_pages,
    ),
    Question(
        check=PAGED,
        clauses=("A2", "A5"),
        draw=lambda declared: high_append_cases(**declared.layouts, only=declared.only, paged=True),
        label="high-page-ids",
        about=HIGH,
        share=0.15,
        unasked=_large_pages,
    ),
    Question(
        check=HUGE_POOL_APPEND,
        clauses=("A1", "S5"),
        draw=lambda declared: append_cases(
            **few_sizes(declared), formats=(None, "e4m3") if declared.offers("append-e4m3") else (None,)
        ),
        share=0.25,
        unasked=no_huge_pools,
    ),
    Question(
        check=HUGE_POOL_PAGED,
        clauses=("A5", "S5"),
        draw=lambda declared: append_cases(**few_sizes(declared), paged=True),
        share=0.25,
        unasked=no_huge_pools,
    ),
)
APPEND_REJECT = Question(
    check=REJECT,
    clauses=("A3", "C1"),
    draw=lambda declared: append_cases(**declared.appends),
    share=0.25,
)
COPIES = (
    Question(
        check=COPY,
        clauses=("K1", "K2"),
        draw=lambda declared: append_cases(
            **declared.appends, **_pools(declared), formats=(None, *_formats(declared))
        ),
    ),
    Question(
        check=COPY,
        clauses=("K1",),
        draw=_many_pages,
        label="many",
        about="Up to 300 copies in one call: more than a kernel has blocks for at once.",
        share=0.25,
    ),
    Question(
        check=HUGE_POOL_COPY,
        clauses=("K1", "S5"),
        draw=lambda declared: append_cases(**few_sizes(declared)),
        share=0.25,
        unasked=no_huge_pools,
    ),
)
GATHERS = (
    Question(check=GATHER, clauses=("G1", "G2", "C7"), draw=_gathered, share=2.0),
    Question(
        check=GATHER,
        clauses=("G1", "S5"),
        draw=lambda declared: huge_pool_cases(**declared.far),
        label="huge-pool",
        about="Tokens come out of pages beyond 2 and 4 GiB, where an offset of 32 bits wraps.",
        share=0.25,
        unasked=no_huge_pools,
    ),
)
