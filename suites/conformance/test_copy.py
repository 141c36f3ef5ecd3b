"""Copying pages within the caches of all layers."""

from __future__ import annotations

from pabench.activities.conformance.examiner import Examiner
from pabench.checks.registry import check_by_id
from pabench.strategies import append_cases


def test_page_copies_are_exact_and_touch_nothing_else(backend_examiner: Examiner) -> None:
    quantised = "fp8-kv" in backend_examiner.features
    drawn = append_cases(**backend_examiner.choices, e4m3=[False, True] if quantised else [False])
    backend_examiner.examine(check_by_id("copy-pages"), drawn)
