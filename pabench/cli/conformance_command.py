"""``pabench conformance``: judge backends and allocators with the generated suite."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pabench.cli.conformance_summary import summary_lines
from pabench.cli.isolation_options import deadline_seconds, isolation_options, poll_seconds
from pabench.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, PabenchError, UnknownName, UsageError

if TYPE_CHECKING:
    from pabench.activities.conformance.lanes import SuiteInLanes
    from pabench.activities.conformance.request import ConformanceRequest
    from pabench.activities.conformance.results import CheckResult
    from pabench.activities.conformance.runner import InProcessSuite
    from pabench.device.registry import DeviceRequest

DEFAULT_BACKEND = "rawkernel"
DEFAULT_ALLOCATORS = ("scan", "ticket", "stack", "host")
PROFILE_NAMES = ("quick", "default", "deep")


@click.command(name="conformance")
@click.option(
    "--backend", "backends", multiple=True, metavar="NAME", help="Backend to judge; may be repeated."
)
@click.option(
    "--allocator",
    "allocators",
    multiple=True,
    metavar="NAME",
    help="Page allocator to judge; may be repeated.  Default, with rawkernel: scan, ticket, stack, host.",
)
@click.option("--device", default="auto", metavar="NAME", help="auto, cuda or emulated.", show_default=True)
@click.option(
    "--profile", default="default", metavar="NAME", help="quick, default or deep.", show_default=True
)
@click.option(
    "--seed", default=0, type=click.IntRange(0, 2**63 - 1), help="Of the generated cases.", show_default=True
)
@click.option("-k", "select", metavar="EXPR", help="Only tests whose name matches (pytest's -k).")
@click.option(
    "--kernels", type=click.Path(path_type=Path), metavar="DIR", help="A copy of kernels_cuda to judge."
)
@click.option(
    "--inputs", type=click.Path(path_type=Path), metavar="FILE", help="Captured activations to draw from."
)
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write JUnit XML.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write totals and results."
)
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the report here too.")
@click.option(
    "--artifacts",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run directory (new or empty).  Default: runs/conformance-<UTC time>.",
)
@click.option("--checked", is_flag=True, help="Look at every access of the kernels, on the emulated device.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Worker processes side by side.  [default: one a core, at most 8; one on cuda]",
)
@isolation_options
def command(
    backends: tuple[str, ...],
    allocators: tuple[str, ...],
    device: str,
    profile: str,
    seed: int,
    select: str | None,
    kernels: Path | None,
    inputs: Path | None,
    junit: Path | None,
    json_file: Path | None,
    html: Path | None,
    artifacts: Path | None,
    checked: bool,
    jobs: int | None,
    deadline: float | None,
    in_process: bool,
) -> int:
    """Judge a backend against the dense float64 oracle with generated cases.

    \b
    Examples:
      pabench conformance --profile quick
      pabench conformance --backend torch-sdpa --json result.json --junit result.xml

    The subjects run in worker processes: one that crashes or hangs gets its verdict, and the run goes on.
    """
    deadline_s = deadline_seconds(deadline, in_process=in_process)
    if jobs is not None and in_process:
        raise UsageError("--jobs counts worker processes, must not be given with --in-process")
    if profile not in PROFILE_NAMES:
        raise UnknownName("profile", profile, PROFILE_NAMES)
    backends, allocators = _subjects(backends, allocators)
    folder = artifacts or Path("runs") / f"conformance-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    for option, file in (("--junit", junit), ("--json", json_file), ("--html", html)):
        if file is not None and (file.is_dir() or not _will_exist(file.absolute().parent, folder)):
            raise UsageError(f"{option} {str(file)!r}: must be a file in an existing folder")

    from pabench.activities.conformance.junit import write_junit
    from pabench.activities.conformance.recorder import Recorder
    from pabench.activities.conformance.request import ConformanceRequest
    from pabench.activities.conformance.results import totals
    from pabench.checks.standing import standing_lines, standings
    from pabench.device.registry import DeviceRequest
    from pabench.report.render import render_report
    from pabench.run.directory import REPORT_FILE, RunDirectory, check_new
    from pabench.run.files import atomic_write_text, pretty
    from pabench.run.provenance import collect
    from pabench.subjects.allocators.registry import ALLOCATORS
    from pabench.subjects.backends.registry import backend_names, is_place
    from pabench.workloads.captured import inputs_in_use

    for kind, asked, known in (
        ("allocator", allocators, ALLOCATORS),
        ("backend", [name for name in backends if not is_place(name)], backend_names()),
    ):
        for name in asked:
            if name not in known:
                raise UnknownName(kind, name, known)
    check_new(folder)
    request = ConformanceRequest(
        backends=backends, allocators=allocators, profile=profile, seed=seed, select=select
    )
    wanted = DeviceRequest(
        name=device,
        kernels=str(kernels) if kernels else None,
        checked=checked,
        poll_seconds=poll_seconds(deadline_s),
    )
    wanted.check()
    with contextlib.ExitStack() as stack:
        capture = stack.enter_context(inputs_in_use(inputs))
        suite = stack.enter_context(_suite(request, wanted, None if in_process else deadline_s, jobs))
        target = suite.prepare()
        config = {
            "backends": backends,
            "allocators": allocators,
            "device": target.name,
            "profile": profile,
            "seed": seed,
            "select": select,
            "kernels": str(kernels) if kernels else None,
            "inputs": capture.id,
            "checked": checked,
        }
        run = RunDirectory.create(
            folder,
            kind="conformance",
            command=shlex.join(["pabench", *sys.argv[1:]]),
            config=config,
            provenance={
                **collect(device_name=target.name, device_description=target.description),
                "subjects": [facts.to_dict() for facts in suite.subjects],
            },
        )
        click.echo(
            f"pabench conformance: {', '.join((*backends, *allocators))} on {target.description}", err=True
        )
        stack.enter_context(run)
        try:
            with _Progress() as progress:
                options = [*(["--kernels", str(kernels)] if kernels else []), *["--checked"] * checked]
                options += ["--inputs", str(inputs)] if inputs else []
                recorder = Recorder(
                    run=run,
                    subjects=suite.subjects,
                    replay_options=tuple(options),
                    on_result=progress.show,
                )
                code = suite.run(recorder, on_collected=progress.start)
        except BaseException as error:
            refused = error.exit_code if isinstance(error, PabenchError) else EXIT_INTERNAL
            code = EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else refused
            run.finish(status="interrupted", exit_code=code)
            raise
        run.finish(status="interrupted" if code == EXIT_INTERRUPTED else "finished", exit_code=code)
    results = recorder.results
    report = render_report([folder], folder / REPORT_FILE)
    if html is not None:
        render_report([folder], html)
    lines = [result.to_line() for result in results]
    standing = standings(lines)
    if junit is not None:
        write_junit(junit, results, standing)
    counts = totals(results)
    if json_file is not None:
        record = {**counts, "exit_code": code, "seed": seed, "profile": profile, "device": target.name}
        subjects = [subject.to_json() for subject in standing]
        atomic_write_text(json_file, pretty({**record, "subjects": subjects, "results": lines}))
    if select is None:
        for said in standing_lines(standing):
            click.echo(said)
    for said in summary_lines(results, counts, suite.subjects):
        click.echo(said)
    click.echo(f"report: {report}")
    if code == EXIT_INTERRUPTED:
        ended = counts["checks"] - counts["not_run"]
        click.echo(f"pabench: interrupted; the {ended} checks that ended are in {folder}", err=True)
    return code


def _suite(
    request: ConformanceRequest, device: DeviceRequest, deadline_s: float | None, jobs: int | None
) -> contextlib.AbstractContextManager[SuiteInLanes | InProcessSuite]:
    """The suite in worker processes, or in this one when there is no deadline."""
    if deadline_s is None:
        from pabench.activities.conformance.runner import InProcessSuite

        return contextlib.nullcontext(InProcessSuite(request, device))
    from pabench.activities.conformance.lanes import SuiteInLanes

    return SuiteInLanes(request, device, deadline_s=deadline_s, jobs=jobs)


def _will_exist(parent: Path, run_folder: Path) -> bool:
    """The run directory is made by this command, so files may go into it."""
    return parent.is_dir() or parent == run_folder.absolute()


def _subjects(
    backends: tuple[str, ...], allocators: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The default judges our own kernels and allocators; a named subject is judged alone."""
    if not backends and not allocators:
        backends = (DEFAULT_BACKEND,)
    if DEFAULT_BACKEND in backends and not allocators:
        allocators = DEFAULT_ALLOCATORS
    return tuple(dict.fromkeys(backends)), tuple(dict.fromkeys(allocators))


class _Progress:
    """A bar on standard error, when that is a terminal."""

    def __enter__(self) -> _Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        # a stream of its own: while the suite runs, pytest captures what goes to the usual one
        try:
            self._stream = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace")
        except (OSError, ValueError):
            self._stream = open(os.devnull, "w", encoding="utf-8")
        console = Console(file=self._stream)
        columns: tuple[Any, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bar.start()
        self._task = self._bar.add_task("preparing", total=None)
        return self

    def start(self, count: int) -> None:
        """Learn how many checks there are."""
        self._bar.update(self._task, total=count)

    def show(self, result: CheckResult) -> None:
        """Note a finished check."""
        self._bar.update(self._task, advance=1, description=f"{result.subject} {result.check}")

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._stream.close()
