"""The supervisor of a conformance run against workers that follow a script; and small cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings

from pabench.activities.conformance.isolated import IsolatedSuite
from pabench.activities.conformance.judge import ALONE, smallest
from pabench.activities.conformance.recorder import Recorder
from pabench.activities.conformance.request import ConformanceRequest, request_from_dict
from pabench.activities.conformance.results import CheckResult
from pabench.activities.conformance.work import ChannelWitness
from pabench.checks.case_files import AnyCase
from pabench.checks.outcome import PASSED, failed
from pabench.checks.smaller import smaller_cases
from pabench.device.registry import DeviceRequest
from pabench.errors import DeviceFault, PabenchError
from pabench.judge.allocators.history import HistoryCase
from pabench.judge.allocators.operations import Operation
from pabench.problem import Batch, Case
from pabench.problem.append import AppendCase
from pabench.run.directory import RunDirectory
from pabench.run.ending import Ending
from pabench.strategies import append_cases, cases
from pabench.subjects.allocators.base import PoolShape
from tests.support.isolation_suite import PROBLEM

REQUEST = ConformanceRequest(backends=("stub",), allocators=(), profile="quick", seed=3)
CRASH, HANG = Ending(text="killed"), Ending(text="hung", hung=True)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with RunDirectory.create(
        tmp_path / "run", kind="conformance", command="", config={}, provenance={}
    ) as run:
        yield Recorder(run=run)


def suite_of(script: str) -> IsolatedSuite:
    entry = f"tests.support.isolation_suite:{script}"
    return IsolatedSuite(REQUEST, DeviceRequest(name="emulated"), deadline_s=30.0, entry=entry)


def states(results: list[CheckResult]) -> list[tuple[str, str, str | None]]:
    return [(result.check, result.status, result.reason) for result in results]


def test_isolation_death_after_a_result_is_a_verdict_of_its_own(recorder: Recorder) -> None:
    with suite_of("dies_after_a_result") as suite:
        suite.prepare()
        assert suite.run(recorder) == 1
    assert [(r.check, r.status) for r in recorder.results] == [
        ("first", "passed"),
        ("after first", "crashed"),
        ("second", "passed"),
        ("third", "passed"),
    ]
    assert (recorder.results[1].reason or "").startswith("aborted (SIGABRT) in dies_after_a_result")
    assert (recorder.results[1].reason or "").endswith(ALONE)
    assert len({line["id"] for line in recorder.run.done}) == 4


def test_isolation_death_after_the_last_result_is_not_lost(recorder: Recorder) -> None:
    with suite_of("dies_at_the_end") as suite:
        suite.prepare()
        assert suite.run(recorder) == 1
    passed = [(name, "passed", None) for name in ("first", "second", "third")]
    assert states(recorder.results) == [*passed, ("after third", "crashed", f"exited with status 9{ALONE}")]


def test_isolation_lost_device_is_a_verdict_and_a_new_worker(recorder: Recorder) -> None:
    counts: list[int] = []
    with suite_of("loses_its_device") as suite:
        assert suite.prepare().description == "stand-in"
        assert suite.run(recorder, on_collected=counts.append) == 1
    assert states(recorder.results) == [
        ("first", "passed", None),
        ("second", "crashed", f"DeviceFault: an illegal memory access{ALONE}"),
        ("third", "passed", None),
    ]
    assert recorder.results[1].failure is not None
    assert counts == [3]


def test_isolation_worker_that_cannot_work_any_more_ends_the_run_once(recorder: Recorder) -> None:
    with suite_of("dies_before_the_second_worker_works") as suite:
        suite.prepare()
        with pytest.raises(PabenchError, match="a worker ended before its first check: exited with status 4"):
            suite.run(recorder)
    assert states(recorder.results) == [("first", "crashed", f"exited with status 3{ALONE}")]


def test_isolation_requests_survive_json() -> None:
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
def test_isolation_smaller_attention_cases_are_smaller_property(case: Case) -> None:
    for candidate in smaller_cases(case):
        assert candidate != case
        assert all(a <= b for a, b in zip(total(candidate), total(case), strict=True))


@given(append_cases())
@settings(max_examples=50, deadline=None)
def test_isolation_smaller_append_cases_are_smaller_property(case: AppendCase) -> None:
    for candidate in smaller_cases(case):
        assert candidate != case
        assert all(a <= b for a, b in zip(total(candidate), total(case), strict=True))


@given(cases())
@settings(max_examples=50, deadline=None)
def test_isolation_smallest_case_is_found_property(case: Case) -> None:
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
def test_isolation_smallest_history_keeps_the_operation_that_crashed(needed: tuple[Operation, ...]) -> None:
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
def test_isolation_smallest_hang_has_hung_for_the_whole_deadline(
    ends: Callable[[AnyCase, float], Ending | None], lengths: tuple[int, ...], text: str
) -> None:
    case = Case(problem=PROBLEM, batch=Batch(kv_lens=(7, 5)))
    found, ending = smallest(case, HANG, ends, 60.0)
    assert isinstance(found, Case)
    assert (found.batch.kv_lens, ending.text) == (lengths, text)


class Ears:
    """Stands for the channel."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def send(self, message: Any) -> None:
        self.heard.append(message)


def test_isolation_witness_leaves_a_process_whose_cuda_context_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Left(Exception):
        pass

    def leave(status: int) -> None:
        raise Left

    def lost() -> None:
        raise DeviceFault("the CUDA device reports: an illegal memory access")

    monkeypatch.setattr("pabench.activities.conformance.work.os._exit", leave)
    ears = Ears()
    witness = ChannelWitness(ears)  # type: ignore[arg-type]
    fine: Any = SimpleNamespace(name="cuda", synchronize=lambda: None)
    broken: Any = SimpleNamespace(name="cuda", synchronize=lost)
    host: Any = SimpleNamespace(name="emulated", synchronize=lost)
    wrong = failed("wrong")
    assert witness.judged(wrong, fine) == wrong
    assert witness.judged(PASSED, broken) == PASSED
    assert witness.judged(wrong, host) == wrong
    assert ears.heard == []
    with pytest.raises(Left):
        witness.judged(wrong, broken)
    (message,) = ears.heard
    assert message == {
        "event": "lost",
        "text": "DeviceFault: the CUDA device reports: an illegal memory access",
    }
