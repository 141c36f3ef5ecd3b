"""Scripts of a worker of the conformance suite, to see what the supervisor makes of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pabench.activities.conformance.messages import case_message
from pabench.activities.conformance.planned import positions_of
from pabench.activities.conformance.results import CheckResult
from pabench.problem import Batch, Case, Problem
from pabench.run.channel import Channel

PROBLEM = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=16, page_size=4)
CASE = Case(problem=PROBLEM, batch=Batch(kv_lens=(9,)))
NAMES = ("first", "second", "third")


def dies_after_a_result(channel: Channel) -> None:
    """The first check passes, and its process dies before the second one starts."""
    for position in _suite(channel):
        _check(channel, position)
        if position == 0:
            os.abort()


def dies_at_the_end(channel: Channel) -> None:
    """All checks pass; the process does not get as far as saying so."""
    for position in _suite(channel):
        _check(channel, position)
        if position == len(NAMES) - 1:
            os._exit(9)


def loses_its_device(channel: Channel) -> None:
    """The second check meets an error that no later call of the process recovers from."""
    for position in _suite(channel):
        if position == 1:
            _start(channel, position)
            channel.send({"event": "lost", "text": "DeviceFault: an illegal memory access"})
            os._exit(0)
        _check(channel, position)


def dies_before_the_second_worker_works(channel: Channel) -> None:
    """The first worker dies in its first check, the one after it at once."""
    for position in _suite(channel):
        if position:
            os._exit(4)
        _start(channel, position)
        os._exit(3)


def first_waits_for_the_others(channel: Channel) -> None:
    """The first check ends after all others have: side by side, or never."""
    folder = Path(os.environ["PABENCH_TEST_MEETING"])
    for position in _suite(channel):
        while position == 0 and not all((folder / name).exists() for name in NAMES[1:]):
            time.sleep(0.01)
        _check(channel, position)
        (folder / NAMES[position]).touch()


def nobody_ends(channel: Channel) -> None:
    """Each check says that it has begun, and blocks."""
    folder = Path(os.environ["PABENCH_TEST_MEETING"])
    for position in _suite(channel):
        _start(channel, position)
        (folder / NAMES[position]).touch()
        time.sleep(3600)


def _suite(channel: Channel) -> Iterator[int]:
    """Positions of the checks to run, up to the end of the suite; single cases are survived."""
    task: dict[str, Any] = channel.receive() or {}
    if task["task"] == "judge":
        while channel.receive():
            channel.send({"event": "survived"})
        os._exit(0)
    channel.send({"event": "ready", "device": "emulated", "description": "stand-in", "subjects": []})
    tests = [{"name": name, "subject": "stub", "subject_kind": "backend"} for name in NAMES]
    channel.send({"event": "collected", "tests": tests})
    go = channel.receive() or {}
    yield from positions_of(len(NAMES), tuple(go["share"]), since=task["skip"])
    channel.send({"event": "end"})


def _start(channel: Channel, position: int) -> None:
    channel.send({"event": "start", "position": position})
    channel.send({"event": "check", "check": NAMES[position], "about": "A script."})
    channel.send(case_message(CASE))


def _check(channel: Channel, position: int) -> None:
    _start(channel, position)
    result = CheckResult(
        check=NAMES[position],
        about="A script.",
        subject="stub",
        subject_kind="backend",
        device="emulated",
        status="passed",
        cases=1,
        max_ratio=0.5,
        reason=None,
        failure=None,
        duration_s=0.0,
    )
    channel.send({"event": "result", "result": asdict(result), "failing": None})
