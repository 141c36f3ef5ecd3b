"""The pytest plugin of a conformance run: gives tests their examiner, turns reports into results."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pabench.allocators.registry import allocator_entry
from pabench.backends.registry import is_place, load_backend
from pabench.conformance.examiner import Effort, Examiner
from pabench.conformance.failures import SavedCase, save_case
from pabench.conformance.outcome import crashed
from pabench.conformance.results import CheckResult, Failure
from pabench.device.base import Device
from pabench.store.run import RunDirectory

BACKEND_FIXTURE = "backend_examiner"
ALLOCATOR_FIXTURE = "allocator_examiner"


@dataclass(slots=True, kw_only=True)
class SubjectsPlugin:
    """Runs each test of the suite once a subject of its kind; enough to collect."""

    backends: tuple[str, ...]
    allocators: tuple[str, ...]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test once a subject of its kind."""
        for fixture, names in ((BACKEND_FIXTURE, self.backends), (ALLOCATOR_FIXTURE, self.allocators)):
            if fixture in metafunc.fixturenames:
                metafunc.parametrize(fixture, names, indirect=True)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Drop the tests of a kind that nobody asked to judge; pytest would list them as skipped."""
        asked = {BACKEND_FIXTURE: bool(self.backends), ALLOCATOR_FIXTURE: bool(self.allocators)}
        unasked = {fixture for fixture, names in asked.items() if not names}
        dropped = [item for item in items if unasked & set(getattr(item, "fixturenames", ()))]
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = [item for item in items if item not in dropped]


@dataclass(slots=True, kw_only=True)
class ConformancePlugin(SubjectsPlugin):
    """Holds what the run was asked for; ``results`` grows as tests end."""

    device: Device
    effort: Effort
    seed: int
    run: RunDirectory
    replay_options: tuple[str, ...] = ()
    on_result: Callable[[CheckResult], None] = lambda result: None
    on_collected: Callable[[int], None] = lambda count: None
    results: list[CheckResult] = field(default_factory=list)
    _current: Examiner | None = None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell the progress display how many tests there are."""
        self.on_collected(len(session.items))

    @pytest.fixture
    def backend_examiner(self, request: pytest.FixtureRequest) -> Examiner:
        """Examiner of one backend."""
        backend = load_backend(request.param, self.device)
        self._current = self._examiner(request.param)
        self._current.backend = backend
        return self._current

    @pytest.fixture
    def allocator_examiner(self, request: pytest.FixtureRequest) -> Examiner:
        """Examiner of one allocator."""
        entry = allocator_entry(request.param)
        self._current = self._examiner(request.param)
        self._current.allocator = entry
        return self._current

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, Any, Any]:
        """Keep the verdict, not the traceback, as the text of a failure."""
        report: Any = yield
        examiner = self._current
        # without a verdict something broke around the check: the exception says what
        report.verdict = call.excinfo and crashed(call.excinfo.value)
        if examiner and report.failed and examiner.notebook.outcome:
            report.verdict = examiner.notebook.outcome
            report.longrepr = f"{item.name}: {report.verdict.text}"
        if report.when == "call" or (report.when == "setup" and not report.passed):
            self._finish(item, report)
        return report

    def _examiner(self, subject: str) -> Examiner:
        return Examiner(subject=subject, device=self.device, effort=self.effort, seed=self.seed)

    def _finish(self, item: pytest.Item, report: Any) -> None:
        examiner, self._current = self._current, None
        subject = item.callspec.params if hasattr(item, "callspec") else {}
        notebook = examiner.notebook if examiner else None
        failure = None
        if report.passed:
            status, reason = "passed", None
        elif report.skipped:
            status, reason = "unsupported", _skip_reason(report)
        else:
            status = "crashed" if report.verdict.crashed else "failed"
            reason = report.verdict.text
            if examiner and examiner.notebook.failing is not None:
                failure = self._save(examiner)
        result = CheckResult(
            check=notebook.check if notebook and notebook.check else item.name,
            about=notebook.about if notebook else "",
            subject=examiner.subject if examiner else str(next(iter(subject.values()), "unknown")),
            subject_kind="backend" if BACKEND_FIXTURE in subject else "allocator",
            device=self.device.name,
            status=status,
            cases=notebook.cases if notebook else 0,
            max_ratio=notebook.worst if notebook else None,
            reason=reason,
            failure=failure,
            duration_s=round(report.duration, 3),
        )
        self.results.append(result)
        self.run.append(result.to_line())
        self.on_result(result)

    def _save(self, examiner: Examiner) -> Failure:
        notebook = examiner.notebook
        case, outcome = notebook.failing, notebook.outcome
        if case is None or outcome is None:
            raise TypeError("a failure without a case cannot be saved")
        # a subject may be a place in the file system: only what a folder name can hold is kept
        name = re.sub(r"[^A-Za-z0-9_]+", "-", f"{notebook.check.split('[')[0]}-{examiner.subject}")
        folder = self.run.failure_dir(f"{case.id}-{name[:80]}")
        saved = SavedCase(check=notebook.check, subject=examiner.subject, device=self.device.name, case=case)
        save_case(folder, saved, outcome.text)
        place = ("--backend", examiner.subject) if is_place(examiner.subject) else ()
        command = ["pabench", "replay", str(folder), *place, *self.replay_options]
        return Failure(
            case_id=case.id,
            text=outcome.text,
            path=str(folder.relative_to(self.run.path)),
            replay=shlex.join(command),
        )


def _skip_reason(report: Any) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(reason).removeprefix("Skipped: ")
