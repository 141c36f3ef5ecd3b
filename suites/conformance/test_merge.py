"""Merging attention states, outputs and log-sum-exps over parts of the keys."""

from __future__ import annotations

from typing import Any

import pytest

from pabench.conformance.examiner import Examiner
from pabench.conformance.registry import check_by_id
from pabench.problem.merge import SPREADS
from pabench.strategies import merge_cases


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
