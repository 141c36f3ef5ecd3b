"""Decode attention over a paged cache: what every backend must do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pabench.checks import attention_checks as attention
from pabench.checks.question import Check, Question
from pabench.device.base import device_kind
from pabench.problem.families import FAMILIES
from pabench.strategies import (
    captured_cases,
    cases,
    high_page_cases,
    long_batches,
    prefix_batches,
    speculative_batches,
    vast_page_cases,
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


def _wide_heads(declared: Range) -> Any:
    choices = declared.attention | {"head_dims": _wide(declared)}
    return cases(families=["marker", "normal", "needle"], max_len=100, **choices)


def _wide(declared: Range) -> list[int]:
    return [size for size in (192, 256) if size <= declared.max_head_dim]


def _no_wide_heads(declared: Range) -> str | None:
    return None if _wide(declared) else f"{declared.subject} offers no head_dim above 128"


def _not_captured(declared: Range) -> str | None:
    capture = capture_in_use()
    head_dim = capture.problem(page_size=1, dtype=capture.dtype).head_dim
    if head_dim <= declared.max_head_dim:
        return None
    return f"{declared.subject} offers no head_dim {head_dim}, which was captured"


def _no_vast_pools(declared: Range) -> str | None:
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
        clauses=ANY,
        draw=_wide_heads,
        label="wide-heads",
        about="head_dim 192 and 256, for which kernels often have code of their own.",
        share=0.5,
        unasked=_no_wide_heads,
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
        draw=lambda declared: vast_page_cases(**declared.far),
        label="vast-pools",
        about="Pages beyond 2 and 4 GiB, and beyond 2^31 and 2^32 elements, where an offset of 32 bits "
        "wraps.",
        share=0.5,
        unasked=_no_vast_pools,
    ),
    Question(check=SPECULATIVE, clauses=("D10",), draw=_SPECULATIVE),
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
    Question(check=VIEWS, clauses=("S2", "D7"), draw=drawing("normal", "needle", poisons=["nan"])),
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
