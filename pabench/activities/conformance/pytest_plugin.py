# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin for other projects: the suite inside their own tests.

::

    pytest --pabench-backend my_kernel.py:decode

adds every question of the suite as a test of its own, under the id that reports print, judged in worker
processes: a kernel that crashes fails its test and the session goes on.  Tests of the project may ask for the
fixtures ``pabench_backend``, ``pabench_device`` and ``pabench_judge``.  Nothing heavy is imported
until an option or a fixture asks for it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pabench.errors import PabenchError, UnknownName, Unsupported
from pabench.run.record import BROKEN, Record, Status

if TYPE_CHECKING:
    from pabench.activities.conformance.items import CheckItem
    from pabench.activities.conformance.plug import Conformance
    from pabench.problem.case import Case
    from pabench.run.directory import RunDirectory
    from pabench.run.engine import Engine
    from pabench.run.plug import Facts

MARK = "pabench"


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
    group.addoption(
        "--pabench-profile", default="quick", metavar="NAME", help="glance, quick, default or deep."
    )
    group.addoption("--pabench-seed", default="0", metavar="N", help="Of the generated cases.")
    group.addoption(
        "--pabench-deadline",
        default="60",
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
    from pabench.checks.case_budget import CASE_BUDGETS

    if config.option.pabench_profile not in CASE_BUDGETS:
        raise pytest.UsageError(str(UnknownName("profile", config.option.pabench_profile, CASE_BUDGETS)))
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
    from pabench.controls.hold import open_verified
    from pabench.device.registry import DeviceRequest

    return open_verified(DeviceRequest(name=pytestconfig.option.pabench_device))


@pytest.fixture(scope="session")
def pabench_backend(request: pytest.FixtureRequest, pabench_device: Any) -> Any:
    """Each backend of ``--pabench-backend``, or that of the mark, in the test's own process."""
    if request.param is None:
        pytest.skip("needs --pabench-backend NAME, or @pytest.mark.pabench(backend=NAME)")
    from pabench.subjects.registry import load_backend

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
    """One question of the suite, put to one subject."""

    hosted: HostedSuite
    asked: CheckItem

    def runtest(self) -> None:
        """Wait for the verdict.

        Raises:
            CheckBroken: the check failed or the subject crashed.
        """
        record = self.hosted.answer(self.asked)
        if record.status in BROKEN or record.status == Status.INTERRUPTED:
            raise CheckBroken(record)
        if record.status == Status.UNSUPPORTED:
            pytest.skip(record.reason or "unsupported")

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

    def __init__(self, record: Record) -> None:
        lines = [f"{str(record.status).upper()} {record.label}: {record.reason}"]
        if record.failure is not None:
            lines.append(f"  again: {record.failure.replay}")
        super().__init__("\n".join(lines))


@dataclass(slots=True, kw_only=True, weakref_slot=True)
class HostedSuite:
    """The suite of one session: prepared when tests are collected, run as they are asked for."""

    config: pytest.Config
    _stack: ExitStack = field(default_factory=ExitStack)
    _engine: Engine | None = None
    _plug: Conformance | None = None
    _facts: Facts | None = None
    _run: RunDirectory | None = None
    _mine: int = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Add an item for each question and subject; what the session deselects is not asked."""
        try:
            asked = self._prepare()
        except PabenchError as error:
            raise pytest.UsageError(f"pabench: {error}") from None
        parents: dict[str, SuiteChecks] = {}
        for one in asked:
            # every subject has the same questions: its node tells them apart
            node = f"{MARK}::{one.subject}"
            if node not in parents:
                parents[node] = SuiteChecks.from_parent(session, name=MARK, nodeid=node)
            item = SuiteCheck.from_parent(parents[node], name=one.question)
            item.hosted, item.asked = self, one
            item.add_marker(MARK)
            items.append(item)

    def pytest_report_header(self) -> str:
        """Name the subjects."""
        option = self.config.option
        return f"pabench: {', '.join((*option.pabench_backend, *option.pabench_allocator))}"

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say which clauses, profiles and badges each subject keeps, and where the run is."""
        if self._run is None or not self._run.records:
            return
        from pabench.checks.summary import clause_lines, summaries

        terminalreporter.section("pabench")
        for line in clause_lines(summaries([record.flat() for record in self._run.records])):
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"report: pabench report {self._run.path}")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Learn how many items are left."""
        self._mine = sum(isinstance(item, SuiteCheck) for item in session.items)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """End the workers and close the run directory."""
        if self._run is not None:
            from pabench.run.record import exit_code

            whole = len(self._run.records) >= self._mine
            code = exit_code(record.status for record in self._run.records)
            self._run.finish(status="finished" if whole else "interrupted", exit_code=code)
        self._stack.close()

    def answer(self, asked: CheckItem) -> Record:
        """Ask a question and return what came of it, written down."""
        if self._engine is None:
            raise PabenchError("the suite was not collected")
        if self._run is None:
            self._run = self._open_run()
        return self._engine.one(asked, self._run)

    def _prepare(self) -> Sequence[CheckItem]:
        from pabench.activities.conformance.plug import Conformance
        from pabench.activities.conformance.request import ConformanceRequest
        from pabench.device.registry import DeviceRequest
        from pabench.run.engine import Engine
        from pabench.run.options import deadline_of, whole

        option = self.config.option
        deadline_s = deadline_of(option.pabench_deadline, "--pabench-deadline")
        request = ConformanceRequest(
            backends=tuple(dict.fromkeys(option.pabench_backend)),
            allocators=tuple(dict.fromkeys(option.pabench_allocator)),
            profile=option.pabench_profile,
            seed=whole("--pabench-seed", option.pabench_seed, low=0, high=2**63 - 1),
        )
        device = DeviceRequest(name=option.pabench_device)
        self._plug = Conformance(request, device=device, deadline_s=deadline_s)
        self._engine = self._stack.enter_context(Engine(self._plug, deadline_s=deadline_s))
        self._facts = self._engine.prepare()
        return self._plug.items(self._facts)

    def _open_run(self) -> RunDirectory:
        from pabench.run.directory import RunDirectory
        from pabench.run.provenance import collect

        if self._plug is None or self._facts is None:
            raise PabenchError("the suite was not collected")
        option, facts = self.config.option, self._facts
        folder = Path(option.pabench_artifacts or f"runs/pytest-{datetime.now(UTC):%Y%m%d-%H%M%S}")
        run = RunDirectory.create(
            folder,
            kind=self._plug.kind,
            command=shlex.join(["pytest", *sys.argv[1:]]),
            config=self._plug.config(facts),
            provenance={
                **collect(device_name=facts.device, device_description=facts.description),
                "subjects": facts.more["subjects"],
            },
        )
        return self._stack.enter_context(run)
