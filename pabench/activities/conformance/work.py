"""What a worker process of the conformance suite does: run the suite, judge single cases, replay a saved one.

The first message names the task; ``isolated.py`` and ``judge.py`` are the other side.  Nothing is written
here: results go out as messages.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict
from typing import Any

from pabench.activities.conformance.messages import case_message, case_of
from pabench.activities.conformance.planned import PlannedTest, positions_of
from pabench.activities.conformance.process import own_process
from pabench.activities.conformance.replay import ReplayRequest, replay_here
from pabench.activities.conformance.request import request_from_dict
from pabench.activities.conformance.results import CheckResult
from pabench.activities.conformance.runner import (
    PYTEST_NOTHING,
    PYTEST_USAGE,
    arguments_for,
    check_collected,
    check_ended,
    make_plugin,
    run_pytest,
)
from pabench.activities.conformance.subject_facts import load_subject
from pabench.checks.case_files import AnyCase, SavedCase
from pabench.checks.failures import rerun
from pabench.checks.outcome import Outcome
from pabench.checks.witness import Witness
from pabench.controls.hold import open_believed
from pabench.device.base import Device
from pabench.device.registry import DeviceRequest
from pabench.errors import DeviceFault, PabenchError, Unsupported
from pabench.run.channel import Channel, Message, refusal
from pabench.run.forks import FORKED, ForkGuard


def work(channel: Channel) -> None:
    """Do the task of the first message; an error that pabench raises on purpose goes back as a message."""
    message = channel.receive()
    if message is None:
        return
    try:
        TASKS[message["task"]](channel, message)
    except PabenchError as error:
        channel.send(refusal(error))


class ChannelWitness(Witness):
    """Tells the supervisor what is about to run.

    Attributes:
        copied: a copy of this process came back from the subject.
    """

    isolated = True

    def __init__(self, channel: Channel) -> None:
        self.copied = False
        self._channel = channel
        self._guard = ForkGuard()

    def check(self, name: str, about: str) -> None:
        """Announce a check."""
        self._channel.send({"event": "check", "check": name, "about": about})

    def case(self, case: AnyCase) -> None:
        """Announce a case."""
        self._channel.send(case_message(case))

    def judged(self, outcome: Outcome, device: Device) -> Outcome:
        """Notice copies of this process, and a CUDA context that is lost with the case that lost it.

        After an illegal access every later call of the context fails too: only a new process helps.
        """
        if self._guard.copy_came_back():
            self.copied = True
            return Outcome(passed=False, text=FORKED, crashed=True)
        if device.name == "cuda" and not outcome.passed:
            try:
                device.synchronize()
            except DeviceFault as fault:
                self._channel.send({"event": "lost", "text": f"{type(fault).__name__}: {fault}"})
                os._exit(0)
        return outcome


def _suite(channel: Channel, message: Message) -> None:
    request = request_from_dict(message["request"])
    device = _open(channel, message)
    subjects = []
    for kind, name in request.subjects:
        channel.send({"event": "loading", "what": f"{kind} {name!r}"})
        subjects.append(load_subject(kind, name, device).to_dict())
    ready = {"event": "ready", "device": device.name, "description": device.description}
    channel.send({**ready, "subjects": subjects})
    witness = ChannelWitness(channel)
    asked: set[str] = getattr(device, "asked", set())

    def on_result(result: CheckResult, failing: AnyCase | None) -> None:
        case = None if failing is None else case_message(failing)
        last = witness.copied
        facts = {"result": asdict(result), "failing": case, "last": last, "kernels": sorted(asked)}
        asked.clear()
        channel.send({"event": "result", **facts})
        if last:
            # copies still come back, and would be taken for the next check's
            os._exit(0)

    plugin = make_plugin(
        request,
        device,
        on_result=on_result,
        choose=lambda tests: _wait_for_share(channel, tests, skip=message["skip"]),
        on_start=lambda position: channel.send({"event": "start", "position": position}),
        witness=witness,
    )
    # what crashes says why on standard error, which the supervisor keeps: pytest must not have it
    arguments = [*arguments_for(request), "--capture=no"]
    status, said = run_pytest(arguments, plugin, interruptible=False)
    if request.select is not None and status in (PYTEST_USAGE, PYTEST_NOTHING):
        check_collected(request, status, said)
    check_ended(status, said)
    channel.send({"event": "end"})


def _wait_for_share(channel: Channel, tests: list[PlannedTest], *, skip: int) -> list[int]:
    """Tell the tests, and return the positions of those to run, from ``skip`` on."""
    if not tests:
        return []
    channel.send({"event": "collected", "tests": [asdict(test) for test in tests]})
    answer = channel.receive()
    if answer is None:
        return []
    return positions_of(len(tests), tuple(answer["share"]), since=skip)


def _judge(channel: Channel, message: Message) -> None:
    device, witness = _open(channel, message), ChannelWitness(channel)
    check, subject = message["check"], message["subject"]
    with own_process(interruptible=False):
        while (asked := channel.receive()) is not None:
            saved = SavedCase(check=check, subject=subject, device=device.name, case=case_of(asked))
            with contextlib.suppress(Unsupported):
                rerun(saved, device, subject=subject, witness=witness)
            channel.send({"event": "survived"})


def _replay(channel: Channel, message: Message) -> None:
    def tell(**facts: str) -> None:
        channel.send({"event": "facts", **facts})

    with own_process(interruptible=False):
        request = ReplayRequest(**message["request"])
        replayed = replay_here(request, witness=ChannelWitness(channel), tell=tell)
    channel.send({"event": "replayed", **asdict(replayed)})


def _open(channel: Channel, message: Message) -> Device:
    request = DeviceRequest(**message["device"])
    channel.send({"event": "loading", "what": f"device {request.name!r}"})
    return open_believed(request)


TASKS: dict[str, Any] = {"suite": _suite, "judge": _judge, "replay": _replay}
