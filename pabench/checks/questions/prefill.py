# SPDX-License-Identifier: Apache-2.0
"""Attention of several query rows a sequence: prompts, chunks of them, speculative tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import strategies as st

from pabench.checks import attention_checks as attention
from pabench.checks.question import Check, Question
from pabench.checks.questions.decode import (
    EMPTY,
    FAR_WINDOWS,
    FEW_HEADS,
    MANY_KV_HEADS,
    NO_LARGE_GROUPS,
    NO_LARGE_PAGES,
    POISON,
    REPEAT,
    large_pages,
    no_huge_pools,
    shapes,
)
from pabench.problem.features import all_features
from pabench.problem.problem import FEATURES
from pabench.strategies import (
    ALL_HEAD_DIMS,
    cases,
    high_page_cases,
    huge_pool_cases,
    large_groups,
    long_prefill_batches,
    many_row_batches,
    prefill_batches,
    tile_end_batches,
)
from pabench.strategies.drawn import Range

PREFILL = Check(id="prefill", operation="prefill", run=attention.check_decode)

KINDS = {
    "causal": (
        ("S1", "Q1", "Q4"),
        "Ragged query lengths; a causal row sees keys up to its place, aligned at the bottom right.",
    ),
    "non-causal": (("Q2",), "Without a causal mask every row sees all keys, or those from its window on."),
    "window": (("F2",), "Each row has a window of its own."),
    "fp8-kv": (("F5",), "A cache of e4m3 with scales, for several rows a sequence."),
    "head-dim-v": (("S7",), "Values longer or shorter than keys, for several rows a sequence."),
    "latent-cache": (("S8",), "A latent cache, for several rows a sequence."),
    "features": (
        ("F1", "F2", "F3", "F4", "F5"),
        "Soft cap, bias, sinks and quantised caches for several rows a sequence.",
    ),
}
"""Label to clauses, and what is asked."""


WIDE, FEWER_ROWS = 256, 520
BOX_PAGES = (16, 32, 64)
"""Page sizes from which kernels copy pages whole."""


def prefill_choices(declared: Range, **changed: Any) -> dict[str, Any]:
    """Return arguments of ``cases`` for what a backend declares, with several query rows."""
    given = {"batch": prefill_batches, "head_dims": declared.head_dims([16, 128])}
    return declared.attention | given | changed


def _of_kind(kind: str) -> Any:
    needs = kind if kind in all_features() else None

    def draw(declared: Range) -> Any:
        # caches and masks have questions of their own
        features = [name for name in declared.features if name in FEATURES] if kind == "features" else ()
        choices = prefill_choices(declared, features=features)
        if kind == "window":  # whole tiles of a kernel lie within a window, and before it
            choices["batch"] = lambda page_size: prefill_batches(page_size) | long_prefill_batches(page_size)
        families = ["normal", "needle", "spotlight", "marker", "window-edge", "ascending"]
        # a feature in each case, where features are asked for: of one that is there now and then faults live
        asked = [[name] for name in features if name != "non-causal"] or [[needs] if needs else []]
        return st.sampled_from(asked).flatmap(
            lambda required: cases(families=families, required=required, **choices)
        )

    return draw


def _long(declared: Range) -> Any:
    families = ["normal", "needle", "spotlight", "marker", "ascending"]
    return cases(families=families, **prefill_choices(declared, batch=long_prefill_batches))


def _tile_ends(declared: Range) -> Any:
    # whole pages of these come in one copy, which brings what stands behind the last key
    given = prefill_choices(declared, batch=tile_end_batches, page_sizes=declared.page_sizes(BOX_PAGES))
    return cases(families=["normal", "needle", "marker"], poisons=["nan", "inf"], **given)


def _large_groups(declared: Range) -> Any:
    batch = partial(prefill_batches, max_seqs=2, max_len=60, max_rows=20)
    return shapes(declared, **prefill_choices(declared, batch=batch), heads=large_groups(declared.groups()))


def _large_pages(declared: Range) -> Any:
    # head dimensions of all kinds here: each row of the suite that draws them compiles kernels of its own
    sizes = {"page_sizes": large_pages(declared), "head_dims": declared.head_dims(ALL_HEAD_DIMS)}
    batch = partial(prefill_batches, max_seqs=2, max_len=600)
    return shapes(declared, **prefill_choices(declared, batch=batch, **sizes), heads=MANY_KV_HEADS)


def _many_rows(declared: Range) -> Any:
    head_dims = declared.head_dims([16])
    sizes = {"head_dims": head_dims, "windows": FAR_WINDOWS, "heads": FEW_HEADS}
    # where head_dim is always large, as over latent caches, 1,100 rows by as many keys would take a minute
    batch = many_row_batches if min(head_dims) <= WIDE else partial(many_row_batches, most=FEWER_ROWS)
    return shapes(declared, **prefill_choices(declared, batch=batch, **sizes))


def _rows_that_see_nothing(declared: Range) -> Any:
    return cases(poisons=["nan", "zero"], **prefill_choices(declared)).filter(
        lambda case: any(q > kv for q, kv in zip(case.batch.query_lens, case.batch.kv_lens, strict=True))
    )


PREFILLS = (
    *(
        Question(
            check=PREFILL,
            clauses=clauses,
            draw=_of_kind(kind),
            label=kind,
            about=about,
            needs=kind if kind in all_features() else None,
        )
        for kind, (clauses, about) in KINDS.items()
    ),
    Question(
        check=PREFILL,
        clauses=("Q1", "Q4"),
        draw=_long,
        label="long",
        about="Up to 140 query rows over up to 500 keys: many tiles of rows and of keys.",
        share=0.5,
    ),
    Question(
        check=PREFILL,
        clauses=("Q1", "D4"),
        draw=_tile_ends,
        label="tile-ends",
        about="Prompts that end up to 15 keys before a tile does, with NaN or infinity behind them.",
        share=0.25,
    ),
    Question(
        check=PREFILL,
        clauses=("Q1", "S6"),
        draw=_many_rows,
        label="many-rows",
        about="Chunks of 257 to 1,100 query rows (to 520 where head_dim is above 256), over as many keys, "
        "some more, or few.",
        share=0.1,
    ),
    Question(
        check=PREFILL,
        clauses=("Q1", "S4", "S6"),
        draw=_large_groups,
        label="groups",
        about="With several rows a sequence too, 9 to 128 query heads for a KV head.",
        share=0.25,
        unasked=NO_LARGE_GROUPS,
    ),
    Question(
        check=PREFILL,
        clauses=("Q1", "S6"),
        draw=_large_pages,
        label="large-pages",
        about="With several rows a sequence too, pages of 96 to 512 tokens and any head_dim to 576.",
        share=0.35,
        unasked=NO_LARGE_PAGES,
    ),
    Question(
        check=POISON,
        clauses=("Q4", "F2"),
        draw=lambda declared: cases(families=["normal", "needle"], **prefill_choices(declared)),
        label="prefill",
        about="With several rows a sequence too, slots that no row may read change no bit.",
        operation="prefill",
        share=0.5,
    ),
    Question(
        check=EMPTY,
        clauses=("Q3", "F4"),
        draw=_rows_that_see_nothing,
        label="prefill",
        about="More query rows than keys: rows before the first key give output 0 and LSE -inf, or their "
        "sink.",
        operation="prefill",
        share=0.5,
    ),
    Question(
        check=REPEAT,
        clauses=("Q4",),
        draw=lambda declared: cases(families=["normal", "ascending"], **prefill_choices(declared)),
        label="prefill",
        about="With several rows a sequence too, every run gives the same bits.",
        operation="prefill",
        share=0.5,
    ),
    Question(
        check=PREFILL,
        clauses=("Q4",),
        draw=lambda declared: high_page_cases(**declared.far, batch=prefill_batches),
        label="high-page-ids",
        about="With several rows a sequence too, page ids around and above 65,536 are taken whole.",
        share=0.15,
    ),
    Question(
        check=PREFILL,
        clauses=("S5",),
        draw=lambda declared: huge_pool_cases(**declared.far, batch=prefill_batches),
        label="huge-pool",
        about="With several rows a sequence too, pages beyond 2 and 4 GiB, where an offset of 32 bits wraps.",
        share=0.25,
        unasked=no_huge_pools,
    ),
)
