# SPDX-License-Identifier: Apache-2.0
"""What becomes of an answer: a verdict, a reason, or what passes through."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

from pabench.checks.case_budget import CaseBudget
from pabench.checks.observer import CaseObserver
from pabench.checks.outcome import PASSED, Outcome, failed
from pabench.checks.question import Check, Question
from pabench.checks.runner import Answer, CheckRunner
from pabench.checks.subject_facts import Judged
from pabench.errors import Unsupported
from pabench.problem import Batch, Case, Problem
from tests.support.probe import DEVICE
from tests.support.stub_backends import Good

PROBLEM = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=16, page_size=1)
CASE_BUDGET = CaseBudget(examples=40, machine_runs=1, machine_steps=1)


def case_of(length: int) -> Case:
    return Case(problem=PROBLEM, batch=Batch(kv_lens=(length,)))


def question(run: Callable[[Case], Outcome], **more: Any) -> Question:
    check = Check(id="toy", operation="decode", run=lambda case, backend, device: run(case))
    given: dict[str, Any] = {"draw": lambda declared: st.integers(0, 100).map(case_of)} | more
    return Question(check=check, clauses=("Q9",), about="A toy.", **given)


GOOD: Any = Good(DEVICE)


def answer(asked: Question, *, lacking: str | None = None) -> Answer:
    runner = CheckRunner(device=DEVICE, case_budget=CASE_BUDGET, seed=0)
    return runner.answer(asked, Judged(name="good", kind="backend", backend=GOOD, lacking=lacking))


def raising(error: BaseException) -> Callable[[Case], Outcome]:
    def run(case: Case) -> Outcome:
        raise error

    return run


def test_runner_counts_what_passes() -> None:
    result, failing = answer(question(lambda case: Outcome(passed=True, text="", max_ratio=0.5)))
    assert (result.check, result.status, result.cases, result.reason) == ("toy", "passed", 40, None)
    assert (result.max_ratio, failing) == (0.5, None)
    assert answer(question(lambda case: PASSED, share=0.25)).result.cases == 10


def test_runner_returns_the_smallest_failing_case_with_its_verdict() -> None:
    def run(case: Case) -> Outcome:
        (length,) = case.batch.kv_lens
        return failed(f"{length} is too long", max_ratio=float(length)) if length > 6 else PASSED

    result, failing = answer(question(run))
    assert (result.status, result.reason, result.max_ratio) == ("failed", "7 is too long", 7.0)
    assert failing == case_of(7)


HERE = r"test_runner\.py:\d+"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("no\nway"), "ValueError: no way"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_runner_makes_a_crash_of_what_a_subject_raises(error: BaseException, words: str) -> None:
    result, failing = answer(question(raising(error)))
    assert result.status == "crashed"
    assert re.fullmatch(rf"{words} \({HERE} in run\)", result.reason or "")
    assert failing == case_of(0)


class Ended(BaseException):
    """As one that says that the process of the subject is gone."""


def test_runner_lets_through_what_is_about_the_process() -> None:
    with pytest.raises(KeyboardInterrupt):
        answer(question(raising(KeyboardInterrupt())))
    # a judge that knows the end of a process for what it is raises it beside any verdict

    def judged(outcome: Outcome, device: Any) -> Outcome:
        raise Ended

    observer = CaseObserver()
    observer.judged = judged  # type: ignore[method-assign]
    runner = CheckRunner(device=DEVICE, case_budget=CASE_BUDGET, seed=0, observer=observer)
    with pytest.raises(Ended):
        runner.answer(question(lambda case: PASSED), Judged(name="good", kind="backend", backend=GOOD))


def test_runner_crash_around_a_check_has_no_case() -> None:
    def draw(declared: Any) -> Any:
        raise ZeroDivisionError("no strategy")

    result, failing = answer(question(lambda case: PASSED, draw=draw))
    assert result.status == "crashed"
    assert re.fullmatch(rf"ZeroDivisionError: no strategy \({HERE} in draw\)", result.reason or "")
    assert (result.cases, failing) == (0, None)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"operation": "prefill"}, "good offers no prefill"),
        ({"needs": "sinks"}, "good offers no sinks"),
        ({"unasked": lambda declared: "not today"}, "not today"),
        (
            {"draw": lambda declared: st.nothing()},
            "good supports none of the cases of toy",
        ),
    ],
)
def test_runner_says_why_nothing_was_judged(more: dict[str, Any], reason: str) -> None:
    result, failing = answer(question(lambda case: pytest.fail("asked"), **more))
    assert (result.status, result.reason, result.cases, failing) == ("unsupported", reason, 0, None)


def test_runner_says_why_every_case_was_declined() -> None:
    result, _ = answer(question(raising(Unsupported("too new"))))
    assert result.status == "unsupported"
    assert result.reason == "good supports none of the cases of toy: too new"


def test_runner_of_a_subject_that_is_not_here_names_each_question() -> None:
    result, _ = answer(question(lambda case: PASSED), lacking="no package")
    assert (result.check, result.about, result.reason) == ("toy", "A toy.", "no package")


def test_runner_tells_a_failure_that_does_not_come_again() -> None:
    asked: list[int] = []

    def run(case: Case) -> Outcome:
        asked.append(1)
        return failed("now and then") if len(asked) == 3 else PASSED

    result, _ = answer(question(run))
    assert (result.status, result.reason) == ("failed", "not on every run: now and then")


def test_runner_asks_the_same_cases_with_a_seed() -> None:
    seen: dict[int, list[int]] = {}
    for turn, seed in enumerate((1, 1, 2)):
        mine = seen.setdefault(turn, [])

        def run(case: Case, mine: list[int] = mine) -> Outcome:
            mine.extend(case.batch.kv_lens)
            return PASSED

        runner = CheckRunner(device=DEVICE, case_budget=CASE_BUDGET, seed=seed)
        runner.answer(question(run), Judged(name="good", kind="backend", backend=GOOD))
    assert seen[0] == seen[1] != seen[2]
