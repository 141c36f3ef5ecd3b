# SPDX-License-Identifier: Apache-2.0
"""The judge of a conformance run: requests, small cases, and a CUDA context that is lost."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings

from pabench.activities.conformance.bench import JudgeObserver
from pabench.activities.conformance.request import ConformanceRequest, request_from_dict
from pabench.activities.conformance.smallest import ALONE, smallest
from pabench.checks.case_files import AnyCase
from pabench.checks.outcome import PASSED, failed
from pabench.checks.remote.errors import SubjectEnded
from pabench.checks.smaller import smaller_cases
from pabench.errors import DeviceFault
from pabench.judge.allocators.history import HistoryCase
from pabench.judge.allocators.operations import Operation
from pabench.problem import Batch, Case, Problem
from pabench.problem.append import AppendCase
from pabench.run.ending import Ending
from pabench.strategies import append_cases, cases
from pabench.subjects.allocators.base import PoolShape

PROBLEM = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=8, page_size=4, dtype="float32")
REQUEST = ConformanceRequest(backends=("stub",), allocators=(), profile="quick", seed=3)
CRASH, HANG = Ending(text="killed"), Ending(text="hung", hung=True)


def test_judge_requests_survive_json() -> None:
    assert request_from_dict(REQUEST.to_dict()) == REQUEST
    assert request_from_dict({**REQUEST.to_dict(), "backends": ["stub"], "allocators": []}) == REQUEST


def total(case: AnyCase) -> tuple[int, ...]:
    """What a smaller case has less of, most important first."""
    if isinstance(case, Case):
        return len(case.batch.kv_lens), sum(case.batch.kv_lens), case.problem.num_qo_heads
    if isinstance(case, AppendCase):
        return len(case.slots), case.num_pages, case.problem.num_qo_heads
    assert isinstance(case, HistoryCase)
    return (len(case.operations),)


@given(cases())
@settings(max_examples=50, deadline=None)
def test_judge_smaller_attention_cases_are_smaller_property(case: Case) -> None:
    for candidate in smaller_cases(case):
        assert candidate != case
        assert all(a <= b for a, b in zip(total(candidate), total(case), strict=True))


@given(append_cases())
@settings(max_examples=50, deadline=None)
def test_judge_smaller_append_cases_are_smaller_property(case: AppendCase) -> None:
    for candidate in smaller_cases(case):
        assert candidate != case
        assert all(a <= b for a, b in zip(total(candidate), total(case), strict=True))


@given(cases())
@settings(max_examples=50, deadline=None)
def test_judge_smallest_case_is_found_property(case: Case) -> None:
    def judge(candidate: AnyCase, deadline_s: float) -> Ending | None:
        assert isinstance(candidate, Case)
        return CRASH if max(candidate.batch.kv_lens) >= 3 else None

    if judge(case, 1.0) is None:
        return
    found, ending = smallest(case, CRASH, judge, 60.0)
    assert isinstance(found, Case)
    assert (found.batch.kv_lens, found.problem.num_qo_heads, ending) == ((3,), 1, CRASH)


GROW: Operation = ("append", {"sequence": 1, "tokens": 2})
OTHER: Operation = ("append", {"sequence": 2, "tokens": 1})
FREE: Operation = ("free", {"sequences": [1]})


@pytest.mark.parametrize("needed", [(), (GROW,)])
def test_judge_smallest_history_keeps_the_operation_that_crashed(needed: tuple[Operation, ...]) -> None:
    shape = PoolShape(num_pages=4, page_size=2, max_seqs=3, max_pages_per_seq=2)
    operations: tuple[Operation, ...] = (OTHER, GROW, ("free", {"sequences": [0]}), OTHER, FREE)
    history = HistoryCase(shape=shape, operations=operations)

    def judge(candidate: AnyCase, deadline_s: float) -> Ending | None:
        assert isinstance(candidate, HistoryCase)
        kept = candidate.operations
        return CRASH if kept[-1] == FREE and all(one in kept for one in needed) else None

    found, _ = smallest(history, CRASH, judge, 60.0)
    assert isinstance(found, HistoryCase)
    assert found.operations == (*needed, FREE)


@pytest.mark.parametrize(
    ("ends", "lengths", "text"),
    [
        # long enough for the short look, not for the whole deadline: the case that was seen to hang stays
        (lambda case, deadline_s: HANG if deadline_s < 60 else None, (7, 5), "hung"),
        (lambda case, deadline_s: HANG, (0,), "hung"),
        (lambda case, deadline_s: CRASH, (7, 5), f"hung{ALONE}"),
        (lambda case, deadline_s: None, (7, 5), f"hung{ALONE}"),
    ],
)
def test_judge_smallest_hang_has_hung_for_the_whole_deadline(
    ends: Callable[[AnyCase, float], Ending | None], lengths: tuple[int, ...], text: str
) -> None:
    case = Case(problem=PROBLEM, batch=Batch(kv_lens=(7, 5)))
    found, ending = smallest(case, HANG, ends, 60.0)
    assert isinstance(found, Case)
    assert (found.batch.kv_lens, ending.text) == (lengths, text)


class Ears:
    """Stands for the engine."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, text: str) -> None:
        self.heard.append(text)


def test_judge_leaves_a_process_whose_cuda_context_is_lost() -> None:
    def lost() -> None:
        raise DeviceFault("the CUDA device reports: an illegal memory access")

    observer = JudgeObserver(Ears())  # type: ignore[arg-type]
    fine: Any = SimpleNamespace(name="cuda", synchronize=lambda: None)
    broken: Any = SimpleNamespace(name="cuda", synchronize=lost)
    host: Any = SimpleNamespace(name="emulated", synchronize=lost)
    wrong = failed("wrong")
    assert observer.judged(wrong, fine) == wrong
    assert observer.judged(PASSED, broken) == PASSED
    assert observer.judged(wrong, host) == wrong
    with pytest.raises(SubjectEnded, match="DeviceFault: the CUDA device reports: an illegal memory access"):
        observer.judged(wrong, broken)


def test_judge_says_now_and_then_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pabench.activities.conformance.bench.time.monotonic", lambda: now[0])
    ears = Ears()
    observer = JudgeObserver(ears)  # type: ignore[arg-type]
    case = Case(problem=PROBLEM, batch=Batch(kv_lens=(7,)))
    observer.check("decode", "")
    for step in (0.0, 0.4, 0.4, 0.1, 0.6):
        now[0] += step
        observer.case(case)
    assert ears.heard == ["3 cases", "5 cases"]
    assert (observer.cases, observer.announced) == (5, case)
    observer.check("append", "")
    assert (observer.cases, observer.announced) == (0, None)
