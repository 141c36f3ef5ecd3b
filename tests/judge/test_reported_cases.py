# SPDX-License-Identifier: Apache-2.0
"""Public reports as cases: each is expressed, a right answer passes, the reported one fails by its cause."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from functools import cache
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


@cache
def said_of(name: str) -> tuple[str, ...]:
    """What is said of a reported fault on its case, with its poison and without.

    Poison hides what was computed; the smallest case that a search finds has none where none is needed.
    """
    case, (fault, _) = case_of(name), CASES[name]
    verdicts = [verdict_of(fault(), replace(case, poison=poison)) for poison in (case.poison, "zero")]
    assert not any(verdict.passed for verdict in verdicts)
    return tuple(verdict.text for verdict in verdicts)


@pytest.mark.parametrize("name", list(FILES))
def test_reported_case_is_told_apart_and_its_cause_named(name: str) -> None:
    right = verdict_of(NumpyBackend(), case_of(name))
    assert right.passed, right.text
    assert any(re.search(CASES[name][1], text) for text in said_of(name)), said_of(name)


def test_reported_cases_count_of_named_causes(capsys: pytest.CaptureFixture[str]) -> None:
    """The cause is the one said, or one of those said: in all of them, where 6 of 22 were before."""
    named = [name for name in FILES if any(re.search(CASES[name][1], text) for text in said_of(name))]
    several = [name for name in named if any("one of: " in text for text in said_of(name))]
    with capsys.disabled():
        sys.stdout.write(
            f"\ncauses named: {len(named)} of {len(FILES)}, {len(several)} of them as one of several\n"
        )
    assert len(named) * 22 >= len(FILES) * 20
