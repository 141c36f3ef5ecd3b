# SPDX-License-Identifier: Apache-2.0
"""Decode attention over a paged cache: what every backend must do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hypothesis import strategies as st

from pabench.checks import attention_checks as attention
from pabench.checks.question import Check, Question
from pabench.device.base import device_kind
from pabench.problem.families import FAMILIES
from pabench.problem.features import all_features
from pabench.strategies import (
    LARGE_PAGE_SIZES,
    OTHER_HEAD_DIMS,
    WIDE_HEAD_DIMS,
    batches_of_pages,
    captured_cases,
    cases,
    crowded_batches,
    far_batches,
    head_counts,
    high_page_cases,
    huge_pool_cases,
    large_groups,
    long_batches,
    many_kv_heads,
    prefix_batches,
    speculative_batches,
)
from pabench.strategies.drawn import Range
from pabench.workloads.captured import capture_in_use

DECODE = Check(id="decode", operation="decode", run=attention.check_decode)
SPECULATIVE = Check(id="speculative", operation="speculative", run=attention.check_speculative)
POISON = Check(id="poison", operation="decode", run=attention.check_poison)
TABLE_TAIL = Check(id="table-tail", operation="decode", run=attention.check_table_tail)
PLACEMENT = Check(id="placement", operation="decode", run=attention.check_placement)
SHARED_PREFIX = Check(id="shared-prefix", operation="decode", run=attention.check_shared_prefix)
VIEWS = Check(id="views", operation="decode", run=attention.check_views)
EMPTY = Check(id="empty", operation="decode", run=attention.check_empty)
REPEAT = Check(id="repeat", operation="decode", run=attention.check_repeat)

ANY = ("S1", "S2", "S3", "S4", "S5", "D1", "D2", "D9", "C5", "C7")
"""Clauses that any right answer of a decode takes."""
FEATURES = {
    "soft-cap": ("F1", "Logits go through cap * tanh(x / cap) before bias and mask."),
    "window": ("F2", "A row sees the last keys only; pages before its window may hold anything."),
    "alibi": ("F3", "A bias of slope times distance, a slope for each query head, is in output and LSE."),
    "sinks": (
        "F4",
        "A logit for each query head joins the sum of weights once, and the LSE, and never the output.",
    ),
    "fp8-kv": (
        "F5",
        "A cache of e4m3 with scales for K and V, per tensor or per KV head, in output and LSE.",
    ),
    "head-dim-v": ("S7", "Values, and so outputs, are longer or shorter than queries and keys."),
    "latent-cache": ("S8", "One vector a token is the key, and its beginning the value: latent attention."),
    "page-gaps": ("S9", "Pages of K and of V lie apart, each with a stride of its own; gaps hold anything."),
    "kv-strides": ("S10", "K and V are allocated apart: offset, page and row strides are each one's own."),
}
"""Feature to its clause, and what is asked of it."""
FEATURE_FAMILIES = ("normal", "needle", "spotlight", "window-edge", "saturating", "one-hot", "marker")
ONE_FAULT = ("waves", "faint", "far-negative", "large-value", "small-value")
"""Families whose fault shows in nearly every case that they draw."""


def drawing(*families: str, **choices: Any) -> Callable[[Range], Any]:
    """Return a ``draw`` of cases of ``families`` over all that a backend declares, changed by ``choices``."""
    return lambda declared: cases(families=families, **{**declared.attention, **choices})


def _long(declared: Range) -> Any:
    choices = declared.attention | {"head_dims": declared.head_dims([16, 128])}
    families = ["marker", "normal", "needle", "spotlight", "ascending"]
    return cases(families=families, batch=long_batches, **choices)


SHAPE_FAMILIES = ("marker", "normal", "needle")
"""Families that show a token or a dimension out of place, whatever the shape."""
LONG_WINDOWS = (256, 384, *sorted(size + d for size in (512, 1024, 2048, 4096) for d in (-1, 0, 1)))
FAR_WINDOWS = (1, 33, *LONG_WINDOWS, 32768, 65536)


def shapes(declared: Range, **changed: Any) -> Any:
    """Return cases whose tokens show where they come from, for what a backend declares, but ``changed``."""
    return cases(**{"families": SHAPE_FAMILIES, **declared.attention, **changed})


def other_sizes(sizes: Sequence[int]) -> Callable[[Range], tuple[int, ...]]:
    """Return what gives those of ``sizes``, head dimensions, that a backend takes."""
    return lambda declared: declared.those_of(sizes, declared.takes_head_dim)


def large_pages(declared: Range) -> tuple[int, ...]:
    """Return the large page sizes that a backend takes."""
    return declared.those_of(LARGE_PAGE_SIZES, declared.takes_page_size)


def unless(offered: Callable[[Range], Any], words: str) -> Callable[[Range], str | None]:
    """Return an ``unasked``: why nothing is drawn for a backend of which ``offered`` gives nothing."""
    return lambda declared: None if offered(declared) else f"{declared.subject} offers {words}"


_OTHER_DIMS, _WIDE_DIMS = other_sizes(OTHER_HEAD_DIMS), other_sizes(WIDE_HEAD_DIMS)
NO_LARGE_GROUPS = unless(Range.groups, "no more than 8 query heads for a KV head")
NO_LARGE_PAGES = unless(large_pages, "no pages above 64 tokens")


def _crowded(declared: Range) -> Any:
    return shapes(declared, batch=crowded_batches, head_dims=declared.head_dims([16]), heads=FEW_HEADS)


def _far(declared: Range) -> Any:
    sizes = {"head_dims": declared.head_dims([16]), "heads": FEW_HEADS, "windows": FAR_WINDOWS}
    return shapes(declared, batch=far_batches, placements=["identity", "shuffled", "reversed"], **sizes)


def _long_windows(declared: Range) -> Any:
    """A window alone, or with a sink: a split that ends before the window has no key to go with it."""
    asked = [["window"], *([["window", "sinks"]] if "sinks" in declared.features else [])]
    sizes = {"head_dims": declared.head_dims([16]), "windows": LONG_WINDOWS}
    batch = partial(long_batches, max_len=5000)
    return st.sampled_from(asked).flatmap(
        lambda required: shapes(
            declared, families=FEATURE_FAMILIES, batch=batch, heads=FEW_HEADS, required=required, **sizes
        )
    )


def _features_of(declared: Range) -> list[str]:
    return [name for name in FEATURES if name in declared.features]


def _long_features(declared: Range) -> Any:
    """A feature that a backend has, where keys are split: what of it belongs into the merge is there once."""
    sizes = {"head_dims": declared.head_dims([16]), "heads": FEW_HEADS}
    batch = partial(long_batches, max_len=1500)
    return st.sampled_from(_features_of(declared)).flatmap(
        lambda feature: shapes(declared, families=FEATURE_FAMILIES, batch=batch, required=[feature], **sizes)
    )


MANY_KV_HEADS = head_counts() | many_kv_heads()
FEW_HEADS = st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2), (3, 3)])
"""``(num_qo_heads, num_kv_heads)`` where there are many rows or keys."""


def _not_captured(declared: Range) -> str | None:
    capture = capture_in_use()
    head_dim = capture.problem(page_size=1, dtype=capture.dtype).head_dim
    if head_dim <= declared.max_head_dim:
        return None
    return f"{declared.subject} offers no head_dim {head_dim}, which was captured"


def no_huge_pools(declared: Range) -> str | None:
    """Return why no pool larger than memory can be given to a backend here, or None."""
    if device_kind(declared.device) != "cuda":
        return None
    return "a pool larger than memory can be reserved on the emulated device alone"


def _shared(declared: Range) -> Any:
    choices = declared.attention | {"head_dims": declared.head_dims([16, 128])}
    drafts = declared.offers("speculative") or declared.offers("prefill")
    batch = prefix_batches if drafts else partial(prefix_batches, max_rows=1)
    families = ["normal", "needle", "spotlight", "marker", "ascending"]
    drawn = cases(families=families, batch=batch, sharing=True, **choices)
    return drawn.filter(lambda case: case.shared_prefix)


def _empty(declared: Range) -> Any:
    drawn = cases(poisons=["nan", "zero"], **declared.attention)
    return drawn.filter(lambda case: 0 in case.batch.kv_lens)


_SPECULATIVE = drawing(
    *("marker", "normal", "needle", "ascending", "all-negative"), batch=speculative_batches
)


def _speculative_groups(declared: Range) -> Any:
    batch = partial(speculative_batches, max_seqs=2, max_len=80)
    sizes = {"head_dims": declared.head_dims([16, 128]), "heads": large_groups(declared.groups())}
    return shapes(declared, batch=batch, **sizes)


ORACLE = (
    *(
        Question(
            check=DECODE,
            clauses=ANY,
            draw=drawing(family),
            label=family,
            about=(make.__doc__ or family).splitlines()[0],
            share=0.5 if family in ONE_FAULT else 1.0,
        )
        for family, make in FAMILIES.items()
    ),
    *(
        Question(
            check=DECODE,
            clauses=(clause,),
            draw=drawing(*FEATURE_FAMILIES, required=[feature]),
            label=feature,
            about=about,
            needs=feature,
        )
        for feature, (clause, about) in FEATURES.items()
    ),
    Question(
        check=DECODE,
        clauses=ANY,
        draw=lambda declared: captured_cases(
            capture_in_use(), **declared.layouts, supported=declared.supported
        ),
        label="captured",
        about="Queries, keys and values that a model made: outliers and sinks that random data lacks.",
        share=0.5,
        against=frozenset(all_features()),
        unasked=_not_captured,
    ),
    Question(
        check=DECODE,
        clauses=ANY,
        draw=_long,
        label="long",
        about="Sequences of up to 3,000 tokens: many tiles, many pages, split keys and their merge.",
    ),
    Question(
        check=DECODE,
        clauses=("S6",),
        draw=lambda declared: shapes(
            declared, head_dims=_OTHER_DIMS(declared), heads=MANY_KV_HEADS, max_len=100
        ),
        label="head-dims",
        about="head_dim 64, 72, 96 and 112, 72 being no multiple of 16, and up to 32 KV heads.",
        share=0.5,
        unasked=unless(_OTHER_DIMS, "no head_dim of 64, 72, 96 or 112"),
    ),
    Question(
        check=DECODE,
        clauses=("S6",),
        draw=lambda declared: shapes(declared, head_dims=_WIDE_DIMS(declared), max_len=100),
        label="wide-heads",
        about="head_dim 192, 256, 512 and 576, for which kernels often have code of their own.",
        share=0.5,
        unasked=unless(_WIDE_DIMS, "no head_dim above 128"),
    ),
    Question(
        check=DECODE,
        clauses=("S4", "S6"),
        draw=lambda declared: shapes(
            declared,
            heads=large_groups(declared.groups()),
            head_dims=declared.head_dims([16, 128]),
            max_seqs=3,
            max_len=100,
        ),
        label="groups",
        about="9 to 128 query heads for a KV head, most of them no multiple of a tile of 16.",
        share=0.5,
        unasked=NO_LARGE_GROUPS,
    ),
    Question(
        check=DECODE,
        clauses=("S3", "S6"),
        draw=lambda declared: shapes(declared, page_sizes=large_pages(declared), batch=batches_of_pages),
        label="large-pages",
        about="Pages of 96 to 512 tokens: tiles within a page, tiles that cross its end.",
        share=0.75,
        unasked=NO_LARGE_PAGES,
    ),
    Question(
        check=DECODE,
        clauses=("S6",),
        draw=_crowded,
        label="crowd",
        about="33 to 300 sequences in a batch, or 1,025, all but a few with keys.",
        share=0.2,
    ),
    Question(
        check=DECODE,
        clauses=("S6",),
        draw=_far,
        label="far",
        about="3,001 to 70,000 keys, half of them beyond 32,767, where a position of 16 bits wraps.",
        share=0.2,
        shrinks=False,
    ),
    Question(
        check=DECODE,
        clauses=("F2", "F4"),
        draw=_long_windows,
        label="long-windows",
        about="Windows of 256 to 4,097 keys, sinks beside them: splits that end before the window begins.",
        share=0.3,
        needs="window",
    ),
    Question(
        check=DECODE,
        clauses=("S6",),
        draw=_long_features,
        label="long-features",
        about="A feature over up to 1,500 tokens: where keys are split, scales, sinks and caps enter once.",
        share=0.5,
        unasked=unless(_features_of, "none of the features that change a merge of split keys"),
    ),
    Question(
        check=DECODE,
        clauses=("S3", "S5"),
        draw=lambda declared: high_page_cases(**declared.far),
        label="high-page-ids",
        about="Page ids around and above 65,536, where an id cut to 16 bits names another page.",
        share=0.5,
    ),
    Question(
        check=DECODE,
        clauses=("S5",),
        draw=lambda declared: huge_pool_cases(**declared.far),
        label="huge-pool",
        about="Pages beyond 2 and 4 GiB, and beyond 2^31 and 2^32 elements, where an offset of 32 bits "
        "wraps.",
        share=0.5,
        unasked=no_huge_pools,
    ),
    Question(check=SPECULATIVE, clauses=("D10",), draw=_SPECULATIVE),
    Question(
        check=SPECULATIVE,
        clauses=("D10", "S6"),
        draw=_speculative_groups,
        label="groups",
        about="Up to 8 query tokens of 9 to 128 heads for a KV head: a tile of rows holds several tokens.",
        share=0.25,
        unasked=NO_LARGE_GROUPS,
    ),
)
UNSEEN = (
    Question(
        check=POISON,
        clauses=("D4", "Q4", "F2"),
        draw=drawing("normal", "needle", "all-negative"),
    ),
    Question(check=TABLE_TAIL, clauses=("D5",), draw=drawing("normal", "needle", poisons=["nan"])),
    Question(check=PLACEMENT, clauses=("S3", "D6"), draw=drawing("normal", "needle", "one-hot")),
    Question(check=SHARED_PREFIX, clauses=("D11",), draw=_shared),
    Question(
        check=VIEWS,
        clauses=("S2", "D7"),
        draw=drawing("normal", "needle", poisons=["nan"]),
        against=frozenset({"latent-cache"}),
    ),
    Question(check=EMPTY, clauses=("D3", "Q3", "F4"), draw=_empty),
    Question(check=REPEAT, clauses=("D8", "Q4"), draw=drawing("normal", "ascending")),
    Question(
        check=PLACEMENT,
        clauses=("S3", "D6"),
        draw=lambda declared: high_page_cases(**declared.far),
        label="high-page-ids",
        about="The same tokens at low page ids and beyond 65,536 give the same bits.",
        share=0.1,
    ),
)
DECODES = (*ORACLE, *UNSEEN)
