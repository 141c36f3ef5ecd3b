"""Writing new tokens into the cache."""

from __future__ import annotations

import pytest

from pabench.activities.conformance.examiner import Examiner
from pabench.checks.registry import check_by_id
from pabench.strategies import append_cases, high_append_cases


def test_append_is_exact_and_touches_nothing_else(backend_examiner: Examiner) -> None:
    backend_examiner.examine(check_by_id("append"), append_cases(**backend_examiner.choices), share=2.0)


def test_append_rounds_once_to_e4m3(backend_examiner: Examiner) -> None:
    drawn = append_cases(**backend_examiner.choices, e4m3=[True])
    backend_examiner.examine(check_by_id("append-e4m3"), drawn)


def test_append_finds_the_slots_itself(backend_examiner: Examiner) -> None:
    quantised = backend_examiner.offers("append-e4m3")
    drawn = append_cases(**backend_examiner.choices, paged=True, e4m3=[False, True] if quantised else [False])
    backend_examiner.examine(check_by_id("append-paged"), drawn)


@pytest.mark.parametrize("operation", ["append", "append-paged"])
def test_append_to_high_pages(backend_examiner: Examiner, operation: str) -> None:
    choices = {name: backend_examiner.choices[name] for name in ("dtypes", "kv_layouts", "interleaved")}
    drawn = high_append_cases(**choices, paged=operation == "append-paged")
    about = "Pages around 65,536, where an id cut to 16 bits names another page."
    check = check_by_id(operation)
    backend_examiner.examine(check, drawn, label="high-page-ids", about=about, share=0.15)
