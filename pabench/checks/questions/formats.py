# SPDX-License-Identifier: Apache-2.0
"""How the cache is stored: a question for each row of the table of formats, made of the row alone."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import strategies as st

from pabench.checks.attention_checks import check_decode
from pabench.checks.question import Check, Question
from pabench.problem.formats import FORMATS, CacheFormat
from pabench.problem.problem import FEATURES
from pabench.strategies import batches, cases, speculative_batches
from pabench.strategies.drawn import Range

STORED = Check(id="stored", operation="decode", run=check_decode)
FAMILIES = ("normal", "needle", "marker", "spotlight", "one-hot")
HEAD_DIMS = (16, 80, 192)
"""One for each size of block: a row of several blocks, the last of which is not full."""
SERVED_HEAD_DIM = 128
"""Asked of every format besides: kernels have a way of their own for it."""
LATENT_DIM = 24
"""Largest head_dim of latent caches here: each is one more compiled kernel."""


def format_question(row: CacheFormat) -> Question:
    """Return the question that asks whether a backend reads a cache of ``row`` right."""
    dim = next((dim for dim in HEAD_DIMS if dim > (row.block or 0)), HEAD_DIMS[-1])

    def draw(declared: Range) -> Any:
        rows = declared.offers("speculative") or declared.offers("prefill")
        asked = [[row.feature], [row.feature, "latent-cache"]]
        # a bias by distance leaves no two keys alike, so that no mistake could be named
        features = [name for name in declared.features if name in FEATURES and name != "alibi"]
        choices = declared.attention | {
            "head_dims": declared.head_dims([dim, SERVED_HEAD_DIM]),
            "features": features,
        }
        batch = partial(batches, max_seqs=3, max_len=100)
        several = partial(speculative_batches, max_seqs=3, max_len=70)
        return st.sampled_from([names for names in asked if {*names} <= {*declared.features}]).flatmap(
            lambda required: cases(
                families=FAMILIES,
                required=required,
                batch=(lambda size: batch(size) | several(size)) if rows else batch,
                **(choices | {"max_head_dim": LATENT_DIM}),
            )
        )

    return Question(
        check=STORED,
        clauses=(row.clause,),
        draw=draw,
        label=row.feature,
        about=row.about,
        needs=row.feature,
        share=0.5,
    )


FORMATS_ASKED = tuple(format_question(row) for row in FORMATS.values() if row.feature not in FEATURES)
"""Those that no feature of attention has a question for already."""
