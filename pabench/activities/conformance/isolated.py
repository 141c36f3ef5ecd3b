"""Runs the suite in worker processes: a subject that kills or blocks its process gets a verdict as others do.

A worker runs the checks one after another and announces each case.  When it dies, or is silent for too long,
the case in flight is the verdict's; a new worker goes on with the check after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from pabench.activities.conformance.judge import Judge, smallest
from pabench.activities.conformance.messages import ENTRY, case_of
from pabench.activities.conformance.planned import PlannedTest, positions_of
from pabench.activities.conformance.recorder import Recording
from pabench.activities.conformance.request import ConformanceRequest
from pabench.activities.conformance.results import CheckResult, exit_code
from pabench.activities.conformance.subject_facts import SubjectFacts
from pabench.checks.case_files import AnyCase
from pabench.device.facts import DeviceFacts
from pabench.device.registry import DeviceRequest
from pabench.errors import EXIT_INTERRUPTED, EXIT_NOTHING_RAN, EnvironmentRefused, PabenchError
from pabench.run.channel import Message, raise_refusal
from pabench.run.ending import Ending
from pabench.run.workers import Nursery, Worker, WorkerEnded


@dataclass(slots=True)
class Flight:
    """The check that a worker is busy with.

    Attributes:
        position: of the test, among those collected.
        announced: message of the case in flight.
        cases: announced so far.
        over: its result is recorded, and the next one has not begun.
    """

    position: int
    began: float
    check: str
    about: str = ""
    announced: Message | None = None
    cases: int = 0
    over: bool = False


class IsolatedSuite:
    """Supervises the workers; a context manager that leaves no process behind.

    Args:
        deadline_s: seconds that one case may take.
    """

    def __init__(
        self, request: ConformanceRequest, device: DeviceRequest, *, deadline_s: float, entry: str = ENTRY
    ) -> None:
        self._request = request
        self._device = device
        self._deadline_s = deadline_s
        self._share = (0, 1)
        self._nursery = Nursery(entry)
        self._worker: Worker
        self._facts: DeviceFacts
        self._subjects: tuple[SubjectFacts, ...] = ()
        self._tests: list[dict[str, str]] = []
        self._flight: Flight | None = None
        self._answers: dict[int, list[CheckResult]] = {}

    def __enter__(self) -> IsolatedSuite:
        return self

    def __exit__(self, *_: object) -> None:
        self._nursery.close()

    def prepare(self) -> DeviceFacts:
        """Start a worker that opens the device, loads the subjects and collects the checks; writes nothing.

        Raises:
            PabenchError: any of it is refused.
            EnvironmentRefused: any of it ends the worker.
        """
        what = "the suite"
        try:
            self._start(skip=0)
            while (message := self._receive())["event"] != "collected":
                if message["event"] == "loading":
                    what = str(message["what"])
                elif message["event"] == "ready":
                    what = "the suite"
                    name, description = str(message["device"]), str(message["description"])
                    self._facts = DeviceFacts(name=name, description=description)
                    self._subjects = tuple(SubjectFacts(**found) for found in message["subjects"])
        except WorkerEnded as ended:
            raise EnvironmentRefused(f"{what} cannot be loaded: {ended.ending.text}") from None
        self._tests = message["tests"]
        return self._facts

    def run(self, recorder: Recording, *, on_collected: Callable[[int], None] = lambda count: None) -> int:
        """Run every check, record each result and return the exit code.

        Raises:
            PabenchError: the suite itself cannot run.
        """
        on_collected(len(self._tests))
        try:
            for _ in self.steps(recorder):
                pass
        except KeyboardInterrupt:
            self._nursery.stop()
            if (flight := self._flight) is not None and not flight.over:
                recorder.record(self._not_run(flight))
            return EXIT_INTERRUPTED
        return exit_code(recorder.results) if recorder.results else EXIT_NOTHING_RAN

    @property
    def subjects(self) -> tuple[SubjectFacts, ...]:
        """What ``prepare`` found."""
        return self._subjects

    @property
    def tests(self) -> tuple[PlannedTest, ...]:
        """What ``prepare`` collected, in the order of the run."""
        return tuple(PlannedTest(**test) for test in self._tests)

    def take_share(self, share: int, shares: int) -> None:
        """Run this share of the tests alone (see ``positions_of``); to be said before ``run``."""
        self._share = (share, shares)

    @property
    def doing(self) -> int:
        """Position of the test that runs or ran last; nothing more is said of this suite's earlier ones."""
        return 0 if self._flight is None else self._flight.position

    def halt(self) -> None:
        """End the run from another thread; ``run`` then returns as after an interrupt."""
        self._nursery.halt()

    def steps(self, recorder: Recording) -> Iterator[None]:
        """Run the suite a message at a time, for a caller that waits for one test after another.

        Raises:
            PabenchError: the suite itself cannot run.
        """
        position = 0
        while positions_of(len(self._tests), self._share, since=position):
            if position:
                self._start(skip=position)
                self._until("collected")
            self._worker.send({"share": self._share})
            position = yield from self._listen(recorder)

    def at(self, position: int) -> bool:
        """Whether a test runs, or has just ended in a process that may still die of it."""
        return self._flight is not None and self._flight.position == position

    def answers(self, position: int) -> tuple[CheckResult, ...]:
        """Return the results of a test so far; one whose process dies afterwards gets a second one."""
        return tuple(self._answers.get(position, ()))

    def _start(self, *, skip: int) -> None:
        self._worker = self._nursery.start()
        request, device = self._request.to_dict(), self._device.to_dict()
        self._worker.send({"task": "suite", "request": request, "device": device, "skip": skip})

    def _receive(self) -> Message:
        try:
            message = self._worker.receive(self._deadline_s)
        except WorkerEnded:
            if self._nursery.halted:
                raise KeyboardInterrupt from None
            raise
        raise_refusal(message)
        return message

    def _until(self, event: str) -> None:
        """A worker that replaces another one: what worked before is not looked at again."""
        try:
            while self._receive()["event"] != event:
                pass
        except WorkerEnded as ended:
            raise PabenchError(f"a new worker ended before its first check: {ended.ending.text}") from None

    def _listen(self, recorder: Recording) -> Generator[None, None, int]:
        """Record what the worker says, until it ends; return the position of the test to go on with."""
        self._flight = None
        try:
            while (message := self._receive())["event"] != "end":
                if message["event"] == "lost":
                    raise WorkerEnded(Ending(text=str(message["text"])))
                self._note(message, recorder)
                yield
                if message.get("last") and self._flight is not None:
                    return self._flight.position + 1
        except WorkerEnded as ended:
            if self._flight is None:
                raise PabenchError(f"a worker ended before its first check: {ended.ending.text}") from None
            self._crash(self._flight, ended.ending, recorder)
            return self._flight.position + 1
        self._nursery.stop()
        return len(self._tests)

    def _note(self, message: Message, recorder: Recording) -> None:
        event = message["event"]
        if event == "start":
            position = int(message["position"])
            name = self._tests[position]["name"]
            self._flight = Flight(position=position, began=time.monotonic(), check=name)
        if (flight := self._flight) is None:
            return
        if event == "check":
            flight.check, flight.about = str(message["check"]), str(message["about"])
        elif event == "case":
            flight.announced = message
            flight.cases += 1
        elif event == "result":
            failing = message["failing"]
            lists = {name: tuple(message["result"][name]) for name in ("findings", "deviations")}
            result = CheckResult(**{**message["result"], **lists})
            self._record(flight, result, recorder, None if failing is None else case_of(failing))
            flight.over = True

    def _crash(self, flight: Flight, ending: Ending, recorder: Recording) -> None:
        """Record the verdict of the check whose worker ended, with the smallest case that ends one."""
        interrupted = False
        case: AnyCase | None = None if flight.announced is None else case_of(flight.announced)
        if case is None:
            ending = Ending(text=f"before its first case: {ending.text}", hung=ending.hung)
        else:
            test = self._tests[flight.position]
            judge = Judge(
                nursery=self._nursery, device=self._device, check=flight.check, subject=test["subject"]
            )
            try:
                case, ending = smallest(case, ending, judge.ending, self._deadline_s)
            except KeyboardInterrupt:
                interrupted = True
        self._record(flight, self._crashed(flight, ending), recorder, case)
        flight.over = True
        if interrupted:
            raise KeyboardInterrupt

    def _record(self, flight: Flight, result: CheckResult, recorder: Recording, case: AnyCase | None) -> None:
        self._answers.setdefault(flight.position, []).append(recorder.record(result, case))

    def _crashed(self, flight: Flight, ending: Ending) -> CheckResult:
        test = self._tests[flight.position]
        # the result of the check stands; what came after it is a verdict of its own
        after = flight.over
        return CheckResult(
            check=f"after {flight.check}" if after else flight.check,
            about="The process outlives the check." if after else flight.about,
            subject=test["subject"],
            subject_kind=test["subject_kind"],
            device=self._facts.name,
            status="crashed",
            cases=0 if after else flight.cases,
            max_ratio=None,
            reason=ending.text,
            failure=None,
            duration_s=round(time.monotonic() - flight.began, 3),
        )

    def _not_run(self, flight: Flight) -> CheckResult:
        test = self._tests[flight.position]
        return CheckResult.not_run(
            check=flight.check,
            about=flight.about,
            subject=test["subject"],
            subject_kind=test["subject_kind"],
            device=self._facts.name,
            cases=flight.cases,
        )
