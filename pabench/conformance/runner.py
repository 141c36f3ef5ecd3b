"""Runs the suite of ``suites/conformance`` with pytest, in this process, into a run directory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pabench.conformance.examiner import PROFILES
from pabench.conformance.plugin import ConformancePlugin, SubjectsPlugin
from pabench.conformance.process import own_process
from pabench.conformance.results import CheckResult, exit_code
from pabench.device.base import Device
from pabench.errors import EXIT_INTERRUPTED, EXIT_NOTHING_RAN, PabenchError, Unsupported, UsageError
from pabench.resources import resource_dir
from pabench.store.run import RunDirectory

PYTEST_INTERRUPTED, PYTEST_INTERNAL, PYTEST_USAGE, PYTEST_NOTHING = 2, 3, 4, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformanceRequest:
    """What to judge and how hard.

    Attributes:
        backends: names of attention backends.
        allocators: names of page allocators.
        profile: ``quick``, ``default`` or ``deep``.
        seed: of the generated cases.
        junit: file for pytest's JUnit XML, or None.
        select: pytest's ``-k`` expression, or None.
        replay_options: options that a replay of this run's failures needs.
    """

    backends: tuple[str, ...]
    allocators: tuple[str, ...]
    profile: str
    seed: int
    junit: Path | None = None
    select: str | None = None
    replay_options: tuple[str, ...] = ()


def run_conformance(
    request: ConformanceRequest,
    device: Device,
    run: RunDirectory,
    *,
    on_result: Callable[[CheckResult], None] = lambda result: None,
    on_collected: Callable[[int], None] = lambda count: None,
) -> tuple[int, list[CheckResult]]:
    """Run the suite and return the exit code and the results, which are in the journal too.

    Raises:
        PabenchError: pytest itself could not run; its message is in the error.
    """
    plugin = ConformancePlugin(
        device=device,
        backends=request.backends,
        allocators=request.allocators,
        effort=PROFILES[request.profile],
        seed=request.seed,
        run=run,
        replay_options=request.replay_options,
        on_result=on_result,
        on_collected=on_collected,
    )
    status, said = _pytest(_arguments(request), plugin)
    if status == PYTEST_INTERRUPTED:
        return EXIT_INTERRUPTED, plugin.results
    if status in (PYTEST_INTERNAL, PYTEST_USAGE):
        raise PabenchError(f"the suite could not run: {said}")
    return (exit_code(plugin.results) if plugin.results else EXIT_NOTHING_RAN), plugin.results


def check_selection(request: ConformanceRequest) -> None:
    """Collect without running, so that a selection that cannot work is refused before anything is written.

    Raises:
        UsageError: ``select`` is no expression.
        Unsupported: it names no check of these subjects.
    """
    subjects = SubjectsPlugin(backends=request.backends, allocators=request.allocators)
    status, said = _pytest([*_arguments(replace(request, junit=None)), "--collect-only"], subjects)
    if status == PYTEST_USAGE:
        raise UsageError(f"-k {request.select!r}: {said.removeprefix('ERROR: ')}")
    if status == PYTEST_NOTHING:
        raise Unsupported(f"-k {request.select!r}: matches no check, so there is nothing to run")
    if status != 0:
        raise PabenchError(f"the suite could not be collected: {said}")


def _pytest(arguments: list[str], plugin: object) -> tuple[int, str]:
    """Run pytest in this process and return its exit status and the line that says why it failed.

    The suite's own output is pytest's; commands print results as they come, on streams of their own.
    """
    log = io.StringIO()
    with own_process(), contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        status = int(pytest.main(arguments, plugins=[plugin]))
    return status, _last_line(log.getvalue())


def _arguments(request: ConformanceRequest) -> list[str]:
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
    if request.junit is not None:
        arguments += [f"--junit-xml={request.junit}", "-o", "junit_suite_name=pabench-conformance"]
    if request.select is not None:
        arguments += ["-k", request.select]
    return arguments


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "no output")
