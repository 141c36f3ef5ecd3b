# SPDX-License-Identifier: Apache-2.0
"""What the suite draws, measured: a class that nothing reaches is a place where faults live."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from pabench.checks.axes import AXES
from pabench.checks.case_budget import CASE_BUDGETS
from pabench.checks.outcome import PASSED
from pabench.checks.question import Question
from pabench.checks.runner import CheckRunner
from pabench.checks.space import Space, space_from_json, unmet
from pabench.checks.specification import CLAUSES
from pabench.checks.subject_facts import Judged
from pabench.checks.suite import questions_for
from pabench.device.emulated import EmulatedDevice
from pabench.errors import Unsupported
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.problem import Problem
from pabench.subjects.backends.base import Backend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend

BACKENDS: dict[str, Any] = {"rawkernel": RawKernelBackend, "rawkernel-mma": RawKernelMmaBackend}
ROWS = tuple(row for row in questions_for("backend") if isinstance(row, Question))


@cache
def drawn(
    name: str, profile: str, most: int | None = None
) -> tuple[Space, Counter[str], dict[str, list[str]]]:
    """What all questions draw for a backend: the space, cases by question, and what the backend refuses."""
    device = EmulatedDevice()
    backend: Backend = BACKENDS[name](device)
    judged = Judged(name=name, kind="backend", backend=backend, known=())
    case_budget = CASE_BUDGETS[profile]
    case_budget = replace(case_budget, examples=min(case_budget.examples, most or case_budget.examples))
    space, cases, without = Space(), Counter[str](), {}
    for row in ROWS:
        asked = replace(row, check=replace(row.check, run=lambda case, backend, device: PASSED))
        try:
            record = CheckRunner(device=device, case_budget=case_budget, seed=0).ask(asked, judged)
        except Unsupported:
            continue
        space.join(record.space)
        cases[row.id] += record.cases
        without = record.refused
    return space, cases, without


def missing(space: Space, without: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    found = {
        axis.name: unmet(axis, space.reached.get(axis.name), without.get(axis.name, ())) for axis in AXES
    }
    return {name: classes for name, classes in found.items() if classes}


@pytest.mark.slow
def test_space_of_quick_has_no_gap() -> None:
    """Of the narrower backend; `test_conformance_profile_passes` asks it of rawkernel, which takes all."""
    space, _, without = drawn("rawkernel-mma", "quick", 30)
    assert missing(space, without) == {}
    for axis in AXES:
        # what a backend refuses is not drawn for it either
        met = space.reached[axis.name].classes
        assert not set(met) & set(without.get(axis.name, ())), (axis.name, met)


@pytest.mark.parametrize("profile", list(CASE_BUDGETS))
def test_space_of_a_profile_asks_every_question_and_clause(profile: str) -> None:
    """A profile is a number of cases; each question draws one at least, whatever its share."""
    _, cases, _ = drawn("rawkernel", profile, 1)
    assert [row.id for row in ROWS if not cases[row.id]] == []
    asked = {clause for row in ROWS if cases[row.id] for clause in row.clauses}
    assert {clause for row in ROWS for clause in row.clauses} == asked <= set(CLAUSES)


def test_space_finds_a_gap() -> None:
    """The measure itself: without the rows of large groups, the classes above 8 are missing."""
    space, _, without = drawn("rawkernel", "glance", 1)
    for name in ("9 to 16", "above 16, others"):
        space.reached["query heads a KV head"].classes.pop(name, None)
    assert {"9 to 16", "above 16, others"} <= set(missing(space, without)["query heads a KV head"])


def test_space_classes_of_a_case() -> None:
    problem = Problem(num_qo_heads=48, num_kv_heads=2, head_dim=72, page_size=8, window=512)
    space = Space()
    space.add(Case(problem=problem, batch=Batch(kv_lens=(0, 33, 512), q_lens=(1, 40, 1))))
    classes = {name: set(reach.classes) for name, reach in space.reached.items()}
    assert classes["query heads a KV head"] == {"above 16, others", "above 16, across KV heads"}
    assert classes["page_size"] == {"2 to 8"}
    assert classes["keys of a sequence"] == {"0", "2 to 200", "201 to 3,000"}
    assert classes["last tile of 32"] == {"one over", "full"}
    assert classes["last split of 256"] == {"full"}
    assert classes["sequences with keys"] == {"2 to 5"}
    assert classes["query rows and keys"] == {"more rows"}
    assert classes["window"] == {"511 to 4,097"}
    assert space_from_json(space.to_json()).to_json() == space.to_json()


@pytest.mark.parametrize(
    "told", [None, [], {"head_dim": 3}, {"head_dim": [1, 2, 3]}, {"x": ["a", 1, {"y": "z"}]}]
)
def test_space_reads_what_a_stranger_wrote(told: Any) -> None:
    assert space_from_json(told) == Space()


def test_range_of_a_narrow_backend_is_its_own() -> None:
    """A backend that takes pages of 256 and a head_dim of 64 alone is judged on just those."""
    backend = RawKernelBackend(EmulatedDevice())
    declared = backend.capabilities
    narrow = replace(
        declared,
        rule=lambda case: (
            None
            if (case.problem.page_size % 256, case.problem.head_dim) == (0, 64)
            else "pages of 256, dim 64"
        ),
    )
    object.__setattr__(backend, "capabilities", narrow)
    runner = CheckRunner(device=EmulatedDevice(), case_budget=CASE_BUDGETS["glance"], seed=0)
    judged = Judged(name="narrow", kind="backend", backend=backend, known=())
    record = runner.ask(next(row for row in ROWS if row.id == "decode[normal]"), judged)
    assert record.cases == CASE_BUDGETS["glance"].examples
    assert set(record.space.reached["page_size"].classes) == {"256", "512"}
    assert set(record.space.reached["head_dim"].classes) == {"64"}
    assert set(record.refused["head_dim"]) >= {"128", "72"}
    assert "64" not in record.refused["head_dim"]
