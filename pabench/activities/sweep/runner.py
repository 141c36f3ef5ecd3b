"""Runs the cells that the journal lacks, and closes the run with its exit code."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pabench.activities.sweep.bench import Bench
from pabench.activities.sweep.cell import Cell
from pabench.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_NOTHING_RAN, EXIT_OK, PabenchError
from pabench.problem.case import Case
from pabench.progress import Progress, make_progress
from pabench.run.case_record import write_case
from pabench.run.directory import RunDirectory
from pabench.subjects.backends.registry import is_place


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """How a sweep ended.

    Attributes:
        lines: journal lines of the sweep's cells that are finished, in the order of the grid.
        interrupted: the user or the system asked to stop before the last cell.
        not_run: cells that the time was not enough for.
        exit_code: of the command line.
    """

    lines: tuple[dict[str, Any], ...]
    interrupted: bool
    exit_code: int
    not_run: int = 0


def run_sweep(
    cells: Sequence[Cell],
    *,
    directory: RunDirectory,
    bench: Bench,
    finish: Callable[[Cell, dict[str, Any]], dict[str, Any]] = lambda cell, line: line,
    ends_at: float | None = None,
    progress: Callable[[int], Progress] = make_progress,
) -> SweepResult:
    """Run what is missing, one line of the journal a cell, then record status and exit code in ``run.json``.

    ``finish`` completes each line before it is written.  No cell but the first begins after ``ends_at`` on
    ``time.monotonic``: the rest is left to a resumed run, and ``not_run`` in ``run.json`` counts it.
    ``KeyboardInterrupt`` ends the sweep in order: finished cells are in the journal, the running one is not.
    """
    done = directory.done_ids()
    missing = [cell for cell in cells if cell.id not in done]
    interrupted, not_run = False, 0
    try:
        with progress(len(missing)) as display:
            for place, cell in enumerate(missing):
                if place and ends_at is not None and time.monotonic() >= ends_at:
                    not_run = len(missing) - place
                    break
                display.start(cell)
                result = bench.run(cell)
                line = finish(cell, result.line)
                if result.failing is not None:
                    line = save_failure(directory, result.failing, line)
                directory.append(line)
                display.done(cell, line)
    except KeyboardInterrupt:
        interrupted = True
    except PabenchError as error:
        # the machine gave out (disk, compiler): what is done stays, and can be resumed
        with contextlib.suppress(PabenchError, OSError):
            directory.finish(status="interrupted", exit_code=error.exit_code)
        raise
    by_id = {line["id"]: line for line in directory.done}
    lines = tuple(by_id[cell.id] for cell in cells if cell.id in by_id)
    code = EXIT_INTERRUPTED if interrupted else exit_code(lines)
    directory.note(not_run=not_run)
    directory.finish(status="interrupted" if interrupted else "finished", exit_code=code)
    return SweepResult(lines=lines, interrupted=interrupted, exit_code=code, not_run=not_run)


def exit_code(lines: Sequence[Mapping[str, Any]]) -> int:
    """Return 1 when a cell failed or crashed, 5 when none ran, else 0."""
    counts = Counter(line["status"] for line in lines)
    if counts["failed"] or counts["crashed"]:
        return EXIT_FAILURE
    return EXIT_OK if counts["ok"] else EXIT_NOTHING_RAN


def save_failure(directory: RunDirectory, case: Case, line: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``failures/<case id>/``, which ``pabench replay`` reads, and return ``line`` with the way to it.

    The layout is that of a failed ``decode`` check of the conformance suite, which judges the same case.
    """
    folder = directory.failure_dir(case.id)
    write_case(
        folder,
        check="decode",
        subject=line["backend"],
        device=line["device"],
        kind="attention",
        case=case.to_dict(),
        text=line["reason"],
    )
    kernels = directory.run["config"].get("kernels")
    inputs = directory.run["config"].get("inputs")
    words = ["pabench", "replay", str(folder), *(["--kernels", kernels] if kernels else [])]
    words += ["--inputs", inputs] if inputs else []
    words += ["--backend", line["backend"]] if is_place(line["backend"]) else []
    way = {"path": f"failures/{case.id}", "replay": shlex.join(words)}
    return {**line, "check": {**line["check"], **way}}
