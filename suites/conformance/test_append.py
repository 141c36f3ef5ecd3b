"""Writing new tokens into the cache."""

from __future__ import annotations

from pabench.conformance.examiner import Examiner
from pabench.conformance.registry import check_by_id
from pabench.strategies import append_cases


def test_append_is_exact_and_touches_nothing_else(backend_examiner: Examiner) -> None:
    backend_examiner.examine(check_by_id("append"), append_cases(**backend_examiner.choices), share=2.0)
