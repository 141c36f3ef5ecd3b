# SPDX-License-Identifier: Apache-2.0
"""Orders of schedulers: who is admitted first, who is preempted, and who takes the place of whom."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.activities.serving.executors import NullExecutor
from pabench.activities.serving.limits import Limits
from pabench.activities.serving.metrics import by_priority
from pabench.activities.serving.recorded import JudgedAllocator
from pabench.activities.serving.records import Served
from pabench.activities.serving.schedulers import SCHEDULERS, Scheduler, scheduler_by_name
from pabench.activities.serving.serve import serve
from pabench.cli.main import run as pabench
from pabench.errors import InvalidCase, UsageError
from pabench.judge.allocators.leftovers import leftovers
from pabench.subjects.allocators.base import PageAllocator
from pabench.workloads.priorities import with_priorities
from pabench.workloads.requests import Requests
from tests.support.serving_support import asked, pool

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "my_scheduler.py"


def served_by(
    scheduler: Scheduler, requests: Requests, priorities: list[int], allocator: PageAllocator, **limits: Any
) -> Served:
    requests = replace(requests, priorities=np.array(priorities))
    return serve(requests, allocator, scheduler, NullExecutor(1.0), Limits(**limits))


def test_priorities_say_who_is_admitted_first() -> None:
    requests = asked((4, 2), (4, 2), (4, 2), (4, 2))
    served = served_by(SCHEDULERS["priority"], requests, [1, 2, 0, 1], pool(seqs=1))
    assert served.log.scheduled_s == [2, 6, 0, 4]
    assert sum(served.log.preemptions) == 0


@pytest.mark.parametrize(("name", "preempted"), [("fcfs", [0, 1]), ("priority", [1, 0])])
def test_priorities_say_who_is_preempted(name: str, preempted: list[int]) -> None:
    served = served_by(SCHEDULERS[name], asked((4, 7), (4, 7)), [1, 0], pool(pages=4))
    assert served.log.preemptions == preempted
    assert all(served.log.finish_s)


@pytest.mark.parametrize(
    ("name", "began", "preempted"),
    [("fcfs", 4, [0, 0, 0]), ("priority", 4, [0, 0, 0]), ("priority-preempt", 2, [0, 1, 0])],
)
def test_priorities_take_the_place_of_others(name: str, began: float, preempted: list[int]) -> None:
    # two hold the pool until 4; an urgent one comes at 1.5, and the newer one makes way for it
    requests = asked((13, 4), (13, 4), (8, 1), arrival_s=(0, 0, 1.5))
    allocator = pool(pages=8)
    served = served_by(SCHEDULERS[name], requests, [1, 1, 0], allocator)
    assert served.log.scheduled_s[2] == began
    assert served.log.preemptions == preempted
    assert all(served.log.finish_s)
    assert leftovers(allocator) is None


def test_priorities_bring_back_the_only_one_that_ran() -> None:
    requests = asked((13, 4), (13, 1), arrival_s=(0, 1.5))
    served = served_by(SCHEDULERS["priority-preempt"], requests, [1, 0], pool(pages=4))
    assert (served.log.preemptions, served.log.skipped) == ([1, 0], {})
    assert served.log.finish_s == [5, 3]


def test_priorities_take_no_place_in_vain() -> None:
    # the urgent one needs more than what the less urgent one has
    requests = asked((13, 4), (13, 4), (20, 1), arrival_s=(0, 0, 1.5))
    served = served_by(SCHEDULERS["priority-preempt"], requests, [0, 1, 0], pool(pages=8))
    assert served.log.preemptions == [0, 0, 0]


SMALL = st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(0, 2), st.sampled_from([0.0, 0.5, 3.0]))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(SMALL, min_size=1, max_size=9), st.sampled_from(["priority", "priority-preempt"]), st.booleans()
)
def test_priorities_serve_everybody_and_give_all_back(
    wanted: list[tuple[int, int, int, float]], name: str, chunked: bool
) -> None:
    arrivals = np.cumsum([gap for *_, gap in wanted])
    requests = asked(*((prompt, output) for prompt, output, *_ in wanted), arrival_s=tuple(arrivals))
    allocator = JudgedAllocator(pool(pages=6))
    scheduler = replace(SCHEDULERS[name], chunked=chunked)
    served = served_by(
        scheduler, requests, [priority for _, _, priority, _ in wanted], allocator, token_budget=6
    )
    done = [end is not None for end in served.log.finish_s]
    # who fits an empty pool is served
    assert done == [-(-(prompt + output - 1) // 4) <= 6 for prompt, output, *_ in wanted]
    assert all(served.log.generated[at] == wanted[at][1] for at in np.flatnonzero(done))
    assert leftovers(allocator) is None


def test_priorities_are_drawn_by_their_shares() -> None:
    requests = asked(*[(1, 1)] * 2000)
    drawn = with_priorities(requests, (0.1, 0.0, 0.9), seed=3).priorities
    assert drawn is not None
    counts = np.bincount(drawn, minlength=3).tolist()
    assert 140 <= counts[0] <= 260
    assert counts[1] == 0
    assert with_priorities(requests, (), seed=3) is requests


def test_priorities_are_told_by_class() -> None:
    served = served_by(SCHEDULERS["priority"], asked((4, 2), (4, 2), (900, 1)), [1, 0, 1], pool(seqs=1))
    requests = replace(asked((4, 2), (4, 2), (900, 1)), priorities=np.array([1, 0, 1]))
    urgent, rest = by_priority(requests, served)
    assert urgent == {
        "priority": 0,
        "requests": 1,
        "served": 1,
        "preemptions": 0,
        "ttft_s_p50": 1,
        "ttft_s_p99": 1,
    }
    assert (rest["requests"], rest["served"], rest["ttft_s_p50"]) == (2, 1, 3)


def test_priorities_go_neither_with_swapping_nor_without_an_order() -> None:
    for given_ in ({"preemption": "swap"}, {"static": True}, {"order": None}):
        with pytest.raises(InvalidCase, match="preempts"):
            replace(SCHEDULERS["priority-preempt"], **given_)
    odd = replace(SCHEDULERS["priority"], name="odd", order=lambda candidate: float("nan"))
    with pytest.raises(InvalidCase, match="order of scheduler 'odd'"):
        served_by(odd, asked((4, 2)), [0], pool())


def test_schedulers_are_named_by_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scheduler_by_name(f"{EXAMPLE}:SHORT_FIRST").name == "short-first"
    (tmp_path / "mine.py").write_text("ANSWER = 42\nraise_it = 1\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    for place, words in (
        ("mine.py:ANSWER", "must be a Scheduler, is int"),
        ("mine.py:NOBODY", "has no 'NOBODY'"),
        ("gone.py:ANSWER", "no such file"),
        ("broken.py:ANSWER", "ZeroDivisionError"),
        ("mine.py:4", "no name in Python"),
    ):
        with pytest.raises(UsageError, match=words):
            scheduler_by_name(place)


def test_priorities_are_in_summary_report_and_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--lengths", "fixed:len=20", "--outputs", "fixed:len=4", "--requests", "20", "--in-process"]
    pick = ["--scheduler", "priority", "--priorities", "0.5,0.5", "--pool-slots", "256"]
    assert pabench(["serving", *words, *pick, "--out", str(tmp_path / "run")]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if ": priority " in line]
    assert [line.partition(", TTFT")[0].partition(": ")[2] for line in said] == [
        f"priority {one['priority']}: {one['served']} of {one['requests']} served, 0 preemptions"
        for one in json.loads((tmp_path / "run" / "journal.jsonl").read_text())["details"]["priorities"]
    ]
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.replace("<wbr>", "").count("preemptions, TTFT p50") == 2
    (columns,) = (tmp_path / "run" / "columns").glob("*.npz")
    assert set(np.load(columns)["request_priority"].tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--priorities", "0.5,0.6"], "add up to 1"),
        (["--priorities", "0.5,x"], "must be shares, such as"),
        (["--priorities", "-1,2"], "share of a priority"),
        (["--scheduler", "prio"], "did you mean"),
    ],
)
def test_priorities_that_cannot_be_are_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pabench(["serving", "--requests", "5", *words, "--out", str(tmp_path / "run")]) == 4
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
