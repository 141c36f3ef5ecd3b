"""The pytest plugin for other projects: the suite inside their own tests.

::

    pytest --pabench-backend my_kernel.py:decode

adds every check of the suite as a test of its own, judged in worker processes: a kernel that crashes fails
its test and the session goes on.  Tests of the project may ask for the fixtures ``pabench_backend``,
``pabench_device`` and ``pabench_judge``.  Nothing heavy is imported until an option or a fixture asks for it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pabench.errors import EXIT_NOTHING_RAN, PabenchError, UnknownName, Unsupported, UsageError

if TYPE_CHECKING:
    from pabench.activities.conformance.isolated import IsolatedSuite
    from pabench.activities.conformance.recorder import Recorder
    from pabench.activities.conformance.results import CheckResult
    from pabench.problem.case import Case

MARK = "pabench"
PROFILE_NAMES = ("quick", "default", "deep")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; each is one of ``pabench conformance``."""
    group = parser.getgroup("pabench", "paged attention conformance")
    group.addoption(
        "--pabench-backend",
        action="append",
        default=[],
        metavar="NAME",
        help="Judge this backend with pabench's suite; may be repeated.",
    )
    group.addoption(
        "--pabench-allocator", action="append", default=[], metavar="NAME", help="Likewise for an allocator."
    )
    group.addoption("--pabench-device", default="auto", metavar="NAME", help="auto, cuda or emulated.")
    group.addoption("--pabench-profile", default="quick", metavar="NAME", help="quick, default or deep.")
    group.addoption("--pabench-seed", default=0, type=int, metavar="N", help="Of the generated cases.")
    group.addoption(
        "--pabench-deadline",
        default=60.0,
        type=float,
        metavar="SECONDS",
        help="For one case; longer is a hang.",
    )
    group.addoption(
        "--pabench-artifacts",
        metavar="DIR",
        help="Run directory (new or empty).  Default: runs/pytest-<UTC time>.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark, and the suite when a subject is named."""
    words = "belongs to pabench's suite; backend=NAME says what pabench_backend loads without the option"
    config.addinivalue_line("markers", f"{MARK}(backend): {words}")
    if not (config.option.pabench_backend or config.option.pabench_allocator):
        return
    if hasattr(config, "workerinput") or getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("--pabench-backend brings worker processes of its own, needs -n 0")
    if config.option.pabench_profile not in PROFILE_NAMES:
        raise pytest.UsageError(str(UnknownName("profile", config.option.pabench_profile, PROFILE_NAMES)))
    config.pluginmanager.register(HostedSuite(config=config), "pabench-hosted-suite")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a backend once for each one named."""
    if "pabench_backend" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker(MARK)
        marked = [mark.kwargs["backend"]] if mark and "backend" in mark.kwargs else []
        names = metafunc.config.option.pabench_backend or marked
        metafunc.parametrize("pabench_backend", names or [None], indirect=True, scope="session")


@pytest.fixture(scope="session")
def pabench_device(pytestconfig: pytest.Config) -> Any:
    """The device of ``--pabench-device``."""
    from pabench.controls.hold import open_believed
    from pabench.device.registry import DeviceRequest

    return open_believed(DeviceRequest(name=pytestconfig.option.pabench_device))


@pytest.fixture(scope="session")
def pabench_backend(request: pytest.FixtureRequest, pabench_device: Any) -> Any:
    """Each backend of ``--pabench-backend``, or that of the mark, in the test's own process."""
    if request.param is None:
        pytest.skip("needs --pabench-backend NAME, or @pytest.mark.pabench(backend=NAME)")
    from pabench.subjects.backends.registry import load_backend

    try:
        return load_backend(request.param, pabench_device)
    except Unsupported as lacking:
        pytest.skip(str(lacking))


@pytest.fixture(scope="session")
def pabench_judge(pabench_backend: Any, pabench_device: Any) -> Callable[..., float | None]:
    """``judge(case, check="decode")``: fails the test with the verdict, or returns the largest err/T."""
    from pabench.checks.registry import check_by_id

    def judge(case: Case, check: str = "decode") -> float | None:
        reason = pabench_backend.capabilities.why_not(case) if hasattr(case, "batch") else None
        if reason:
            pytest.skip(f"{pabench_backend.name}: {reason}")
        try:
            outcome = check_by_id(check).run(case, pabench_backend, pabench_device)
        except Unsupported as lacking:
            pytest.skip(str(lacking))
        if not outcome.passed:
            pytest.fail(f"{check} of case {case.id}: {outcome.text}", pytrace=False)
        return outcome.max_ratio

    return judge


class SuiteCheck(pytest.Item):
    """One test of the suite with its subject."""

    hosted: HostedSuite
    position: int

    def runtest(self) -> None:
        """Wait for the verdict of this test.

        Raises:
            CheckBroken: the check failed or the subject crashed.
        """
        results = self.hosted.results(self.position)
        bad = [result for result in results if result.status in ("failed", "crashed", "not-run")]
        if bad:
            raise CheckBroken(bad)
        if all(result.status == "unsupported" for result in results):
            pytest.skip(results[0].reason or "unsupported")

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Show the verdict, not a traceback of this plugin."""
        if isinstance(excinfo.value, CheckBroken | PabenchError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, int | None, str]:
        """Where the test is, for people."""
        return MARK, None, self.name


class SuiteChecks(pytest.Collector):
    """Parent of all ``SuiteCheck`` items."""

    def collect(self) -> list[SuiteCheck]:
        """Items are made when the session's own have been collected."""
        return []


class CheckBroken(AssertionError):
    """The verdict of a check, in lines."""

    def __init__(self, results: list[CheckResult]) -> None:
        lines = []
        for result in results:
            lines.append(f"{result.status.upper()} {result.subject} {result.check}: {result.reason}")
            if result.failure is not None:
                lines.append(f"  again: {result.failure.replay}")
        super().__init__("\n".join(lines))


@dataclass(slots=True, kw_only=True, weakref_slot=True)
class HostedSuite:
    """The suite of one session: prepared when tests are collected, run as they are asked for."""

    config: pytest.Config
    _stack: ExitStack = field(default_factory=ExitStack)
    _suite: IsolatedSuite | None = None
    _recorder: Recorder | None = None
    _steps: Iterator[None] | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Add an item for each test of the suite and subject."""
        try:
            planned = self._prepare()
        except PabenchError as error:
            raise pytest.UsageError(f"pabench: {error}") from None
        parent = SuiteChecks.from_parent(session, name=MARK, nodeid=MARK)
        for position, test in enumerate(planned):
            item = SuiteCheck.from_parent(parent, name=test.name)
            item.hosted, item.position = self, position
            item.add_marker(MARK)
            items.append(item)

    def pytest_report_header(self) -> str:
        """Name the subjects."""
        option = self.config.option
        return f"pabench: {', '.join((*option.pabench_backend, *option.pabench_allocator))}"

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say which clauses, profiles and badges each subject keeps, and where the run is."""
        if self._recorder is None or not self._recorder.results:
            return
        from pabench.checks.standing import standing_lines, standings

        terminalreporter.section("pabench")
        for line in standing_lines(standings([result.to_line() for result in self._recorder.results])):
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"report: pabench report {self._recorder.run.path}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """End the workers and close the run directory."""
        if self._recorder is not None:
            whole = self._suite is not None and all(
                self._suite.answers(i) for i in range(len(self._suite.tests))
            )
            status = "finished" if whole else "interrupted"
            from pabench.activities.conformance.results import exit_code

            self._recorder.run.finish(status=status, exit_code=exit_code(self._recorder.results))
        self._stack.close()

    def results(self, position: int) -> tuple[CheckResult, ...]:
        """Return the results of a test; runs the suite up to it."""
        if self._suite is None:
            raise PabenchError("the suite was not collected")
        if self._steps is None:
            self._steps = self._suite.steps(self._open_run())
        while self._suite.at(position) or not self._suite.answers(position):
            try:
                next(self._steps)
            except StopIteration:
                break
        found = self._suite.answers(position)
        if not found:
            raise PabenchError("the suite ended before this test")
        return found

    def _prepare(self) -> tuple[Any, ...]:
        from pabench.activities.conformance.isolated import IsolatedSuite
        from pabench.activities.conformance.request import ConformanceRequest
        from pabench.device.registry import DeviceRequest

        option = self.config.option
        request = ConformanceRequest(
            backends=tuple(dict.fromkeys(option.pabench_backend)),
            allocators=tuple(dict.fromkeys(option.pabench_allocator)),
            profile=option.pabench_profile,
            seed=option.pabench_seed,
            select=option.keyword or None,
        )
        deadline_s = float(option.pabench_deadline)
        if not 0 < deadline_s < float("inf"):
            raise UsageError(f"--pabench-deadline {deadline_s:g}: must be more than 0 and finite")
        suite = IsolatedSuite(request, DeviceRequest(name=option.pabench_device), deadline_s=deadline_s)
        self._suite = self._stack.enter_context(suite)
        try:
            suite.prepare()
        except PabenchError as refused:
            if refused.exit_code != EXIT_NOTHING_RAN:
                raise
            return ()  # -k names tests of the project alone
        return suite.tests

    def _open_run(self) -> Recorder:
        from pabench.activities.conformance.recorder import Recorder
        from pabench.run.directory import RunDirectory
        from pabench.run.provenance import collect

        option = self.config.option
        subjects = self._suite.subjects if self._suite is not None else ()
        folder = Path(option.pabench_artifacts or f"runs/pytest-{datetime.now(UTC):%Y%m%d-%H%M%S}")
        run = RunDirectory.create(
            folder,
            kind="conformance",
            command=shlex.join(["pytest", *sys.argv[1:]]),
            config={
                "backends": option.pabench_backend,
                "allocators": option.pabench_allocator,
                "device": option.pabench_device,
                "profile": option.pabench_profile,
                "seed": option.pabench_seed,
                "select": option.keyword or None,
            },
            provenance={**collect(), "subjects": [facts.to_dict() for facts in subjects]},
        )
        self._stack.enter_context(run)
        self._recorder = Recorder(run=run, subjects=subjects)
        return self._recorder
