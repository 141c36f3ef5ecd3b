# SPDX-License-Identifier: Apache-2.0
"""Scales beside queries, keys and values: a question for each kind, of one query row and of several."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st

from pabench.checks.question import Question
from pabench.checks.questions.decode import DECODE, FEATURE_FAMILIES, unless
from pabench.checks.questions.prefill import PREFILL
from pabench.problem.formats import FORMATS
from pabench.strategies import batches, cases, prefill_batches
from pabench.strategies.drawn import Range

SCALED = {
    "fp8-q": ("F22", "Queries of e4m3 with a scale per tensor or per KV head, over caches of any format"),
    "sequence-scales": ("F23", "Scales of each sequence and KV head, of queries, keys and values"),
}
"""Feature to its clause, and what is asked of it: each is drawn with the formats that have scales."""
BATCHES = {
    DECODE: (partial(batches, max_seqs=4, max_len=100), "."),
    PREFILL: (
        partial(prefill_batches, max_seqs=3, max_len=70, max_rows=20),
        ", several query rows a sequence.",
    ),
}


def _scaled(feature: str, batch: Callable[[int], Any]) -> Callable[[Range], Any]:
    """Return a ``draw`` of cases with ``feature`` over caches of each format that it goes with."""

    def draw(declared: Range) -> Any:
        choices = declared.attention | {"head_dims": declared.head_dims([16, 80])}
        return st.sampled_from(_scaled_with(feature, declared)).flatmap(
            lambda others: cases(
                families=FEATURE_FAMILIES, required=[feature, *others], batch=batch, **choices
            )
        )

    return draw


def _scaled_with(feature: str, declared: Range) -> list[list[str]]:
    """What a case may ask for beside a feature of scales, so that there is something to scale."""
    formats = [row.feature for row in FORMATS.values() if row.tensor_scale]
    cached = [[name] for name in formats if name in declared.features]
    if feature == "fp8-q":
        return [[], *cached]
    both = [[*one, "fp8-q"] for one in cached] if "fp8-q" in declared.features else []
    return [*cached, *both]


SCALES_ASKED = tuple(
    Question(
        check=check,
        clauses=(clause,),
        draw=_scaled(feature, batch),
        label=feature,
        about=about + rows,
        needs=feature,
        share=0.5,
        unasked=unless(partial(_scaled_with, feature), "no format of a cache with scales beside it"),
    )
    for check, (batch, rows) in BATCHES.items()
    for feature, (clause, about) in SCALED.items()
)
