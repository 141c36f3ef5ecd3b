"""Public reports as cases: each is expressed, a right answer passes, the reported one fails by its cause."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pabench.judge.verdict import Verdict, judge
from pabench.problem.case import Case, case_from_dict
from pabench.problem.tensors import build_tensors
from pabench.subjects.backends.base import attend
from tests.support.numpy_backend import NumpyBackend
from tests.support.planted_numpy import CASES

FILES = {file.stem: file for file in sorted((Path(__file__).parent / "cases").glob("*.json"))}


def case_of(name: str) -> Case:
    told: dict[str, Any] = json.loads(FILES[name].read_text())["pabench_case"]
    return case_from_dict(told)


def verdict_of(backend: NumpyBackend, case: Case) -> Verdict:
    tensors = build_tensors(case)
    output = attend(backend, tensors)
    return judge(tensors, output.out, output.lse, backend.profile)


def test_reported_cases_are_all_here() -> None:
    assert FILES.keys() == CASES.keys()


@pytest.mark.parametrize("name", list(FILES))
def test_reported_case_is_told_apart_and_its_cause_named(name: str) -> None:
    case, (fault, words) = case_of(name), CASES[name]
    right = verdict_of(NumpyBackend(), case)
    assert right.passed, right.text
    # poison hides what was computed; the smallest case that a search finds has none where none is needed
    said = []
    for poison in (case.poison, "zero"):
        wrong = verdict_of(fault(), replace(case, poison=poison))
        assert not wrong.passed
        said.append(wrong.text)
    assert any(re.search(words, text) for text in said), said
