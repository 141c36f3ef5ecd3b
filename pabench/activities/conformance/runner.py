"""Runs the suite of ``suites/conformance`` with pytest in this process."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pabench.activities.conformance.examiner import PROFILES
from pabench.activities.conformance.planned import PlannedTest
from pabench.activities.conformance.plugin import ConformancePlugin, SubjectsPlugin
from pabench.activities.conformance.process import own_process
from pabench.activities.conformance.recorder import Recorder
from pabench.activities.conformance.request import ConformanceRequest
from pabench.activities.conformance.results import exit_code
from pabench.activities.conformance.subject_facts import SubjectFacts, load_subject
from pabench.controls.hold import open_believed
from pabench.device.base import Device
from pabench.device.facts import DeviceFacts
from pabench.device.registry import DeviceRequest
from pabench.errors import EXIT_INTERRUPTED, EXIT_NOTHING_RAN, PabenchError, Unsupported, UsageError
from pabench.resources import resource_dir

LOG_CHARACTERS = 2**14
PYTEST_INTERRUPTED, PYTEST_INTERNAL, PYTEST_USAGE, PYTEST_NOTHING = 2, 3, 4, 5


class InProcessSuite:
    """Runs the suite in this process: for debuggers, and for tests that look inside.

    What crashes or hangs a subject crashes or hangs the command.
    """

    def __init__(self, request: ConformanceRequest, device: DeviceRequest) -> None:
        self._request = request
        self._wanted = device
        self._device: Device
        self._subjects: tuple[SubjectFacts, ...] = ()

    @property
    def subjects(self) -> tuple[SubjectFacts, ...]:
        """What ``prepare`` found."""
        return self._subjects

    def prepare(self) -> DeviceFacts:
        """Open the device, load the subjects and look whether the selection names a check; writes nothing.

        Raises:
            PabenchError: any of it is refused.
        """
        self._device = device = open_believed(self._wanted)
        self._subjects = tuple(load_subject(kind, name, device) for kind, name in self._request.subjects)
        if self._request.select is not None:
            subjects = SubjectsPlugin(backends=self._request.backends, allocators=self._request.allocators)
            status, said = run_pytest([*arguments_for(self._request), "--collect-only"], subjects)
            check_collected(self._request, status, said)
        return DeviceFacts(name=device.name, description=device.description)

    def run(self, recorder: Recorder, *, on_collected: Callable[[int], None] = lambda count: None) -> int:
        """Run every check, record each result and return the exit code.

        Raises:
            PabenchError: pytest itself could not run; its message is in the error.
        """

        def choose(tests: list[PlannedTest]) -> range:
            on_collected(len(tests))
            return range(len(tests))

        plugin = make_plugin(self._request, self._device, on_result=recorder.record, choose=choose)
        status, said = run_pytest(arguments_for(self._request), plugin)
        if status == PYTEST_INTERRUPTED:
            if (cut := plugin.unfinished()) is not None:
                recorder.record(cut)
            return EXIT_INTERRUPTED
        check_ended(status, said)
        return exit_code(recorder.results) if recorder.results else EXIT_NOTHING_RAN


def make_plugin(request: ConformanceRequest, device: Device, **hooks: Any) -> ConformancePlugin:
    """Return the plugin of a run; ``hooks`` are its ``on_...`` callbacks, ``choose`` and ``witness``."""
    return ConformancePlugin(
        device=device,
        backends=request.backends,
        allocators=request.allocators,
        tests=request.tests,
        effort=replace(PROFILES[request.profile], shrink=not request.stop),
        seed=request.seed,
        scope=request.scope,
        **hooks,
    )


def check_collected(request: ConformanceRequest, status: int, said: str) -> None:
    """Refuse a selection that cannot work.

    Args:
        request: its ``select`` is given.
        status: pytest's, after collecting.
        said: the line in which pytest says why.

    Raises:
        UsageError: ``select`` is no expression.
        Unsupported: it names no check of these subjects.
        PabenchError: the suite cannot be collected.
    """
    if status == PYTEST_USAGE:
        raise UsageError(f"-k {request.select!r}: {said.removeprefix('ERROR: ')}")
    if status == PYTEST_NOTHING:
        raise Unsupported(f"-k {request.select!r}: matches no check, so there is nothing to run")
    if status != 0:
        raise PabenchError(f"the suite could not be collected: {said}")


def check_ended(status: int, said: str) -> None:
    """Raise ``PabenchError`` when pytest itself broke, or was interrupted by nobody."""
    if status in (PYTEST_INTERRUPTED, PYTEST_INTERNAL, PYTEST_USAGE):
        raise PabenchError(f"the suite could not run: {said}")


def run_pytest(arguments: list[str], plugin: object, *, interruptible: bool = True) -> tuple[int, str]:
    """Run pytest in this process and return its exit status and the line that says why it failed.

    The suite's own output is pytest's; commands print results as they come, on streams of their own.

    Args:
        arguments: of the command line.
        plugin: registered under its own name.
        interruptible: an interrupt is the user's, and ends the run.
    """
    log = _LastWords()
    with (
        own_process(interruptible=interruptible),
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        status = int(pytest.main(arguments, plugins=[plugin]))
    return status, _last_line(log.kept)


class _LastWords(io.TextIOBase):
    """Keeps the end of what is written: a subject may print without end."""

    def __init__(self) -> None:
        self.kept = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        self.kept = (self.kept + text)[-LOG_CHARACTERS:]
        return len(text)


def arguments_for(request: ConformanceRequest) -> list[str]:
    """Return pytest's command line."""
    suite = resource_dir("suites") / "conformance"
    arguments = [
        str(suite),
        f"--rootdir={suite}",
        # an empty configuration: whatever project the user stands in has no say
        f"--config-file={suite / 'pytest.ini'}",
        "--import-mode=importlib",
        "-q",
        "--no-header",
        "--tb=short",
        *("-p", "no:cacheprovider"),
    ]
    if request.select is not None:
        arguments += ["-k", request.select]
    if request.stop:
        arguments.append("--exitfirst")
    return arguments


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "no output")
