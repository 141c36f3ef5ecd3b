"""Attention of several query rows a sequence: prompts, chunks of them, speculative tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

from pabench.activities.conformance.examiner import Examiner
from pabench.checks.registry import check_by_id
from pabench.problem.problem import FEATURES
from pabench.strategies import cases, high_page_cases, long_prefill_batches, prefill_batches

ABOUT = {
    "causal": "Ragged query lengths; a causal row sees keys up to its place, aligned at the bottom right.",
    "non-causal": "Without a causal mask every row sees all keys, or those from its window on.",
    "window": "Each row has a window of its own.",
    "fp8-kv": "A cache of e4m3 with scales, for several rows a sequence.",
    "features": "Soft cap, bias, sinks and quantised caches for several rows a sequence.",
}


def drawable(examiner: Examiner, *, features: list[str]) -> dict[str, Any]:
    """Arguments of ``cases`` for what the backend declares, with several query rows."""
    chosen = {**examiner.choices, "features": features, "supported": examiner.supports}
    return {**chosen, "batch": prefill_batches, "head_dims": examiner.head_dims([16, 128])}


@pytest.mark.parametrize("kind", ABOUT)
def test_prefill_matches_oracle(backend_examiner: Examiner, kind: str) -> None:
    needs = kind if kind in FEATURES else None
    features = backend_examiner.features if kind == "features" else []
    choices = drawable(backend_examiner, features=features)
    if kind == "window":  # whole tiles of a kernel lie within a window, and before it
        choices["batch"] = lambda page_size: prefill_batches(page_size) | long_prefill_batches(page_size)
    families = ["normal", "needle", "spotlight", "marker", "window-edge", "ascending"]
    # a feature in each case, where features are asked for: of one that is there now and then faults live
    asked = [[name] for name in features if name != "non-causal"] or [[needs] if needs else []]
    drawn = st.sampled_from(asked).flatmap(
        lambda required: cases(families=families, required=required, **choices)
    )
    backend_examiner.examine(check_by_id("prefill"), drawn, label=kind, about=ABOUT[kind], needs=needs)


def test_prefill_long_prompts(backend_examiner: Examiner) -> None:
    choices = drawable(backend_examiner, features=backend_examiner.features)
    choices |= {"batch": long_prefill_batches}
    drawn = cases(families=["normal", "needle", "spotlight", "marker", "ascending"], **choices)
    about = "Up to 140 query rows over up to 500 keys: many tiles of rows and of keys."
    backend_examiner.examine(check_by_id("prefill"), drawn, label="long", about=about, share=0.5)


def test_prefill_unread_slots_change_nothing(backend_examiner: Examiner) -> None:
    choices = drawable(backend_examiner, features=backend_examiner.features)
    drawn = cases(families=["normal", "needle"], **choices)
    about = "With several rows a sequence too, slots that no row may read change no bit."
    backend_examiner.examine(
        check_by_id("poison"), drawn, label="prefill", about=about, operation="prefill", share=0.5
    )


def test_prefill_rows_that_see_nothing(backend_examiner: Examiner) -> None:
    choices = drawable(backend_examiner, features=backend_examiner.features)
    drawn = cases(poisons=["nan", "zero"], **choices).filter(
        lambda case: any(q > kv for q, kv in zip(case.batch.query_lens, case.batch.kv_lens, strict=True))
    )
    about = "More query rows than keys: rows before the first key give output 0 and LSE -inf, or their sink."
    backend_examiner.examine(
        check_by_id("empty"), drawn, label="prefill", about=about, operation="prefill", share=0.5
    )


def test_prefill_same_bits_every_run(backend_examiner: Examiner) -> None:
    choices = drawable(backend_examiner, features=backend_examiner.features)
    drawn = cases(families=["normal", "ascending"], **choices)
    about = "With several rows a sequence too, every run gives the same bits."
    backend_examiner.examine(
        check_by_id("repeat"), drawn, label="prefill", about=about, operation="prefill", share=0.5
    )


def test_prefill_high_page_ids(backend_examiner: Examiner) -> None:
    choices = drawable(backend_examiner, features=[])
    del choices["head_dims"], choices["features"]
    about = "With several rows a sequence too, page ids around and above 65,536 are taken whole."
    drawn = high_page_cases(**choices)
    backend_examiner.examine(check_by_id("prefill"), drawn, label="high-page-ids", about=about, share=0.15)
