"""The pytest plugin of a conformance run: gives tests their examiner, turns reports into results."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pabench.activities.conformance.absent import AbsentBackend
from pabench.activities.conformance.examiner import Effort, Examiner
from pabench.activities.conformance.planned import PlannedTest
from pabench.activities.conformance.results import CheckResult
from pabench.activities.conformance.subject_facts import backend_facts
from pabench.checks.case_files import AnyCase
from pabench.checks.ledger import known_deviations
from pabench.checks.outcome import raised
from pabench.checks.scope import EVERYTHING, Scope
from pabench.checks.witness import Witness
from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.subjects.allocators.registry import allocator_entry
from pabench.subjects.backends.registry import load_backend

BACKEND_FIXTURE = "backend_examiner"
ALLOCATOR_FIXTURE = "allocator_examiner"


@dataclass(slots=True, kw_only=True)
class SubjectsPlugin:
    """Runs each test of the suite once a subject of its kind; enough to collect."""

    backends: tuple[str, ...]
    allocators: tuple[str, ...]
    tests: tuple[str, ...] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test once a subject of its kind."""
        for fixture, names in ((BACKEND_FIXTURE, self.backends), (ALLOCATOR_FIXTURE, self.allocators)):
            if fixture in metafunc.fixturenames:
                metafunc.parametrize(fixture, names, indirect=True)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Drop the tests of a kind that nobody asked to judge; pytest would list them as skipped.

        With ``tests``, the tests so named stay alone, in that order.
        """
        asked = {BACKEND_FIXTURE: bool(self.backends), ALLOCATOR_FIXTURE: bool(self.allocators)}
        unasked = {fixture for fixture, names in asked.items() if not names}
        dropped = [item for item in items if unasked & set(getattr(item, "fixturenames", ()))]
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = [item for item in items if item not in dropped]
        if self.tests:
            place = {name: index for index, name in enumerate(self.tests)}
            items[:] = sorted((item for item in items if item.name in place), key=lambda i: place[i.name])


@dataclass(slots=True, kw_only=True)
class ConformancePlugin(SubjectsPlugin):
    """Gives each test its examiner, and hands its result on.

    Attributes:
        on_result: told each result, and the failing case where there is one.
        choose: told all tests before the first one runs, and returns the positions of those that do.
        on_start: told the position of each test that starts.
        scope: what cases are drawn from.
        rehearsal: tests name their checks and do nothing.
    """

    device: Device
    effort: Effort
    seed: int
    on_result: Callable[[CheckResult, AnyCase | None], object]
    choose: Callable[[list[PlannedTest]], Sequence[int]] = lambda tests: range(len(tests))
    on_start: Callable[[int], None] = lambda position: None
    scope: Scope = EVERYTHING
    rehearsal: bool = False
    witness: Witness = field(default_factory=Witness)
    _positions: Iterator[int] = field(default_factory=lambda: iter(()))
    _test: PlannedTest | None = None
    _current: Examiner | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Leave out the tests that run elsewhere."""
        positions = self.choose([_planned(item) for item in session.items])
        session.items[:] = [session.items[position] for position in positions]
        self._positions = iter(positions)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Tell which test starts."""
        self._test = _planned(item)
        self.on_start(next(self._positions))

    @pytest.fixture
    def backend_examiner(self, request: pytest.FixtureRequest) -> Examiner:
        """Examiner of one backend."""
        examiner = self._examiner(request.param)
        try:
            examiner.backend = load_backend(request.param, self.device)
            facts = backend_facts(request.param, examiner.backend)
            examiner.known = known_deviations("backend", request.param, facts.version, facts.mode)
        except Unsupported as lacking:
            examiner.backend, examiner.lacking = AbsentBackend(), str(lacking)
        self._current = examiner
        return examiner

    @pytest.fixture
    def allocator_examiner(self, request: pytest.FixtureRequest) -> Examiner:
        """Examiner of one allocator."""
        entry = allocator_entry(request.param)
        examiner = self._examiner(request.param)
        examiner.allocator = entry
        try:
            entry.load()
            examiner.known = known_deviations("allocator", request.param, entry.version())
        except Unsupported as lacking:
            examiner.lacking = str(lacking)
        self._current = examiner
        return examiner

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, Any, Any]:
        """Keep the verdict, not the traceback, as the text of a failure."""
        report: Any = yield
        examiner = self._current
        # without a verdict something broke around the check: the exception says what
        report.verdict = call.excinfo and raised(call.excinfo.value)
        if examiner and report.failed and examiner.notebook.outcome:
            report.verdict = examiner.notebook.outcome
            report.longrepr = f"{item.name}: {report.verdict.text}"
        if report.when == "call" or (report.when == "setup" and not report.passed):
            self._finish(item, report)
        return report

    def unfinished(self) -> CheckResult | None:
        """Return the result of the check that an interrupt cut short, or None when none was running."""
        if self._current is None or self._test is None:
            return None
        notebook = self._current.notebook
        return CheckResult.not_run(
            check=notebook.check or self._test.name,
            about=notebook.about,
            subject=self._test.subject,
            subject_kind=self._test.subject_kind,
            device=self.device.name,
            cases=notebook.cases,
        )

    def _examiner(self, subject: str) -> Examiner:
        return Examiner(
            subject=subject,
            device=self.device,
            effort=self.effort,
            seed=self.seed,
            scope=self.scope,
            rehearsal=self.rehearsal,
            witness=self.witness,
        )

    def _finish(self, item: pytest.Item, report: Any) -> None:
        examiner, self._current = self._current, None
        planned = _planned(item)
        notebook = examiner.notebook if examiner else None
        failing = None
        if report.passed:
            status, reason = "deviates" if notebook and notebook.deviations else "passed", None
        elif report.skipped:
            status, reason = "unsupported", _skip_reason(report)
        else:
            status = "crashed" if report.verdict.crashed else "failed"
            reason = report.verdict.text
            failing = notebook.failing if notebook else None
        result = CheckResult(
            check=notebook.check if notebook and notebook.check else item.name,
            about=notebook.about if notebook else "",
            subject=planned.subject,
            subject_kind=planned.subject_kind,
            device=self.device.name,
            status=status,
            cases=notebook.cases if notebook else 0,
            max_ratio=notebook.worst if notebook else None,
            reason=reason,
            failure=None,
            duration_s=round(report.duration, 3),
            findings=report.verdict.findings if report.failed else (),
            deviations=tuple(notebook.deviations.values()) if notebook else (),
            operations=notebook.operations if notebook else 0,
            lacks=notebook.lacks if notebook else {},
        )
        self.on_result(result, failing)


def _planned(item: pytest.Item) -> PlannedTest:
    subjects: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    kind = "backend" if BACKEND_FIXTURE in subjects else "allocator"
    subject = subjects.get(BACKEND_FIXTURE, subjects.get(ALLOCATOR_FIXTURE, "unknown"))
    return PlannedTest(name=item.name, subject=str(subject), subject_kind=kind)


def _skip_reason(report: Any) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(reason).removeprefix("Skipped: ")
