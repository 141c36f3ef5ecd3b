"""Runs the suite in several lanes side by side: each has a share of the tests and its own workers.

The shares are fixed beforehand and every test draws its own cases, so results do not depend on the number of
lanes; they are recorded in the order of the tests whichever ended first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field

from pabench.activities.conformance.isolated import IsolatedSuite
from pabench.activities.conformance.messages import ENTRY
from pabench.activities.conformance.recorder import Recorder
from pabench.activities.conformance.request import ConformanceRequest
from pabench.activities.conformance.results import CheckResult, exit_code
from pabench.activities.conformance.subject_facts import SubjectFacts
from pabench.checks.case_files import AnyCase
from pabench.cores import usable_cores
from pabench.device.facts import DeviceFacts
from pabench.device.registry import DeviceRequest
from pabench.errors import EXIT_INTERRUPTED, EXIT_NOTHING_RAN

MAX_DEFAULT_LANES = 8
"""A worker holds torch and a pool of cases: some hundred megabytes."""


class SuiteInLanes:
    """Supervises the lanes, a thread each; a context manager that leaves no process behind.

    Args:
        deadline_s: seconds that one case may take.
        jobs: lanes; None for one a core where kernels run on cores, and for one on a GPU.
    """

    def __init__(
        self,
        request: ConformanceRequest,
        device: DeviceRequest,
        *,
        deadline_s: float,
        jobs: int | None,
        entry: str = ENTRY,
    ) -> None:
        self._request = request
        self._device = device
        self._deadline_s = deadline_s
        self._jobs = jobs
        self._entry = entry
        self._stack = ExitStack()
        self._suites: list[IsolatedSuite] = []

    def __enter__(self) -> SuiteInLanes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def subjects(self) -> tuple[SubjectFacts, ...]:
        """What ``prepare`` found."""
        return self._suites[0].subjects

    def prepare(self) -> DeviceFacts:
        """Start the first lane, which opens the device, loads the subjects and collects; writes nothing.

        Raises:
            PabenchError: any of it is refused.
            EnvironmentRefused: any of it ends the worker.
        """
        # one test may be enough for many lanes: how many there are shows when they are collected
        first = self._suite(0, 1)
        facts = first.prepare()
        jobs = self._jobs or (1 if facts.name == "cuda" else min(usable_cores(), MAX_DEFAULT_LANES))
        lanes = max(1, min(jobs, len(first.tests)))
        first.take_share(0, lanes)
        for lane in range(1, lanes):
            self._suite(lane, lanes)
        return facts

    def run(self, recorder: Recorder, *, on_collected: Callable[[int], None] = lambda count: None) -> int:
        """Run every check, record each result and return the exit code.

        Raises:
            PabenchError: the suite itself cannot run.
        """
        on_collected(len(self._suites[0].tests))
        sequence = Sequence(recorder=recorder, suites=self._suites)
        try:
            with ThreadPoolExecutor(len(self._suites)) as pool:
                lanes = [pool.submit(sequence.run, suite) for suite in self._suites]
                try:
                    for lane in as_completed(lanes):
                        lane.result()
                except BaseException:
                    for suite in self._suites:
                        suite.halt()
                    raise
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        finally:
            sequence.record_all()
        return exit_code(recorder.results) if recorder.results else EXIT_NOTHING_RAN

    def _suite(self, lane: int, lanes: int) -> IsolatedSuite:
        suite = IsolatedSuite(self._request, self._device, deadline_s=self._deadline_s, entry=self._entry)
        self._suites.append(self._stack.enter_context(suite))
        suite.take_share(lane, lanes)
        return suite


@dataclass(slots=True, kw_only=True)
class Sequence:
    """Holds results back until no lane can bring one that belongs before them.

    Attributes:
        suites: one a lane; all but the first are prepared in their own lanes.
    """

    recorder: Recorder
    suites: list[IsolatedSuite]
    _held: list[tuple[int, CheckResult, AnyCase | None]] = field(default_factory=list)
    _ended: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, suite: IsolatedSuite) -> None:
        """Run one lane to its end."""
        if suite is not self.suites[0]:
            suite.prepare()
        suite.run(LaneRecorder(suite=suite, hold=self._hold))
        with self._lock:
            self._ended.add(id(suite))
            self._record()

    def record_all(self) -> None:
        """Record what is still held, after the last lane."""
        with self._lock:
            self._ended.update(id(suite) for suite in self.suites)
            self._record()

    def _hold(self, position: int, result: CheckResult, failing: AnyCase | None) -> None:
        with self._lock:
            self._held.append((position, result, failing))
            self._record()

    def _record(self) -> None:
        running = [suite.doing for suite in self.suites if id(suite) not in self._ended]
        # two results of one test stay in their order: sorting is stable
        self._held.sort(key=lambda held: held[0])
        while self._held and (not running or self._held[0][0] <= min(running)):
            _, result, failing = self._held.pop(0)
            self.recorder.record(result, failing)


@dataclass(slots=True, kw_only=True)
class LaneRecorder:
    """Takes the results of one lane.

    Attributes:
        hold: told the position of the test, its result and the failing case.
    """

    suite: IsolatedSuite
    hold: Callable[[int, CheckResult, AnyCase | None], None]
    results: list[CheckResult] = field(default_factory=list)

    def record(self, result: CheckResult, failing: AnyCase | None = None) -> CheckResult:
        """Take one result."""
        self.results.append(result)
        self.hold(self.suite.doing, result, failing)
        return result
