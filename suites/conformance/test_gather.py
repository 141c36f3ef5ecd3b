"""Gathering the pages of a batch into dense rows."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from pabench.activities.conformance.examiner import Examiner
from pabench.checks.registry import check_by_id
from pabench.problem.case import Case
from pabench.strategies import APPEND_SCALES, cases

SCALES = (*APPEND_SCALES, 1.8263888359069824, 1.7786458730697632)
"""With the last two, 9 times the scale is next to a tie of bfloat16 or float16, and on it in float32."""


def scaled(case: Case, scale: float) -> Case:
    """Another scale of the keys, which may be long, so that products round."""
    problem = case.problem
    return case if problem.kv_dtype is None else replace(case, problem=replace(problem, k_scale=(scale,)))


def test_gather_is_exact(backend_examiner: Examiner) -> None:
    features = [name for name in backend_examiner.features if name == "fp8-kv"]
    drawn = cases(families=["normal", "needle", "saturating"], features=features, **backend_examiner.choices)
    mixed = st.builds(scaled, drawn, st.sampled_from(SCALES))
    backend_examiner.examine(check_by_id("gather"), mixed)
