# SPDX-License-Identifier: Apache-2.0
"""Which keys a row sees: a question for each row of the table of masks, made of the row alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st

from pabench.checks.attention_checks import check_decode
from pabench.checks.question import Check, Question
from pabench.problem.masks import MASKS, Mask
from pabench.strategies import cases
from pabench.strategies.drawn import Range
from pabench.strategies.masks import mask_batches, masked_prompts

MASKED = Check(id="masked", operation="decode", run=check_decode)
FAMILIES = ("needle", "marker", "normal", "spotlight")


def _masked(declared: Range, mask: Mask, batch: Callable[[int], Any]) -> Any:
    # a bias by distance leaves no two keys alike, so that no mistake of a mask could be named
    features = [name for name in declared.features if name not in {*mask.without, "alibi", "non-causal"}]
    choices = declared.attention | {"head_dims": declared.head_dims([16]), "features": features}
    return cases(families=FAMILIES, required=[mask.name], batch=batch, **choices)


def mask_question(mask: Mask) -> Question:
    """Return the question that asks whether a backend has ``mask`` right."""

    def draw(declared: Range) -> Any:
        rows = declared.offers("speculative") or declared.offers("prefill")
        return _masked(declared, mask, partial(mask_batches, mask=mask, rows=rows))

    def unasked(declared: Range) -> str | None:
        if mask.several_rows and not (declared.offers("speculative") or declared.offers("prefill")):
            return f"{declared.subject} offers no several query rows, with which alone {mask.name} shows"
        return None

    return Question(
        check=MASKED,
        clauses=(mask.clause,),
        draw=draw,
        label=mask.name,
        about=mask.about,
        needs=mask.name,
        share=0.5,
        unasked=unasked,
    )


MASKS_ASKED = tuple(mask_question(mask) for mask in MASKS.values())


def _offered(declared: Range) -> list[Mask]:
    return [mask for name, mask in MASKS.items() if name in declared.features]


def _prompts(declared: Range) -> Any:
    return st.sampled_from(_offered(declared)).flatmap(lambda mask: _masked(declared, mask, masked_prompts))


MASKED_PROMPTS = Question(
    check=Check(id="masked-prompts", operation="prefill", run=check_decode),
    clauses=tuple(dict.fromkeys(mask.clause for mask in MASKS.values())),
    draw=_prompts,
    about="Masks of prompts, of more rows than a draft has, over several tiles of keys.",
    unasked=lambda declared: None if _offered(declared) else f"{declared.subject} offers no mask",
)
