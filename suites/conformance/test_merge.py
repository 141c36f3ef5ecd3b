"""Merging attention states, outputs and log-sum-exps over parts of the keys."""

from __future__ import annotations

from typing import Any

import pytest

from pabench.activities.conformance.examiner import Examiner
from pabench.checks.part_checks import MOST_PARTS
from pabench.checks.registry import check_by_id
from pabench.problem.merge import SPREADS
from pabench.strategies import cases, merge_cases


def drawable(examiner: Examiner) -> dict[str, Any]:
    """Arguments of ``merge_cases`` that keep to what the backend declares."""
    return {"dtypes": examiner.choices["dtypes"], "head_dims": examiner.head_dims()}


@pytest.mark.parametrize("spread", SPREADS)
def test_merge_is_within_the_bound(backend_examiner: Examiner, spread: str) -> None:
    drawn = merge_cases(spreads=[spread], **drawable(backend_examiner))
    about = f"Merged states are within the bound: {SPREADS[spread]}."
    backend_examiner.examine(check_by_id("merge"), drawn, label=spread, about=about, share=0.5)


def test_merge_ignores_states_without_keys(backend_examiner: Examiner) -> None:
    drawn = merge_cases(**drawable(backend_examiner))
    backend_examiner.examine(check_by_id("merge-empty"), drawn)


def test_parts_of_the_keys_merge_to_the_whole(backend_examiner: Examiner) -> None:
    # a part has another last key than the whole, and would count a sink of its own
    features = [name for name in backend_examiner.features if name not in ("window", "alibi", "sinks")]
    drawn = cases(
        families=["normal", "needle", "spotlight", "ascending"],
        placements=["identity", "shuffled", "reversed"],
        features=features,
        min_len=MOST_PARTS,
        supported=backend_examiner.supports,
        **backend_examiner.choices,
    )
    backend_examiner.examine(check_by_id("parts"), drawn, share=0.25)
