"""The steps of ``pabench gpu``: each a pabench command in a process of its own, with a deadline and a log.

What has been done stands in ``steps.json``, so that a run that was cut short goes on where it was.  A step
that goes wrong, or finds something wrong, does not keep the others from running.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pabench.errors import EXIT_ENVIRONMENT, EXIT_FAILURE, EXIT_OK, EnvironmentRefused, UsageError
from pabench.store.files import atomic_write_text, pretty, reason

STEPS_FILE = "steps.json"
SHUTDOWN_S = 15.0
"""Seconds that a step has to end in order, once its time is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command.

    Attributes:
        name: of the step and of its log.
        part: ``check`` or ``sweep``.
        seconds: at most, of what is left of the budget.
        words: makes the arguments of ``pabench``, given the seconds that the step has.
        may_lack: whether exit code 7 means that a tool is missing here, and nothing else.
        shown: whether what it prints is shown, too.
        complete: whether a step that ended well has nothing left to do.
    """

    name: str
    part: str
    seconds: float
    words: Callable[[float], Sequence[str]]
    may_lack: bool = False
    shown: bool = False
    complete: Callable[[], bool] = lambda: True


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a step.

    Attributes:
        name: of the step.
        state: ``ok``, ``failed``, ``skipped`` (a tool is missing), ``deadline`` or ``not-run`` (no time was
            left).
        exit_code: of its process; None when it did not end by itself.
        seconds: that it took.
        said: its last line.
        command: as a user would type it.
    """

    name: str
    state: str
    exit_code: int | None
    seconds: float
    said: str
    command: tuple[str, ...] = field(default=())


def begin(folder: Path) -> None:
    """Make ``folder``, with a record of no steps.

    Raises:
        EnvironmentRefused: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentRefused(f"cannot create {folder}: {reason(error)}") from error
    atomic_write_text(folder / STEPS_FILE, pretty([]))


def run_steps(
    steps: Iterable[Step],
    folder: Path,
    *,
    ends_at: float,
    done: Sequence[Outcome],
    show: Callable[[str], None],
) -> tuple[Outcome, ...]:
    """Run the steps that ``done`` does not hold as ok and complete; return the outcome of each step.

    Args:
        steps: in their order.
        folder: exists; gets the logs and ``steps.json``.
        ends_at: on ``time.monotonic``; no step begins afterwards.
        done: outcomes of an earlier call with the same folder.
        show: told one line a step, and the output of steps that are shown.
    """
    before = {outcome.name: outcome for outcome in done}
    made: dict[str, Outcome] = dict(before)
    for step in steps:
        earlier = before.get(step.name)
        if earlier is not None and earlier.state == "ok" and step.complete():
            show(f"{step.name}: done before")
            continue
        left = ends_at - time.monotonic()
        if left <= 0:
            outcome = Outcome(
                name=step.name, state="not-run", exit_code=None, seconds=0.0, said="no time was left"
            )
        else:
            outcome = _run(step, folder, min(left, step.seconds))
        made[step.name] = outcome
        atomic_write_text(folder / STEPS_FILE, pretty([asdict(one) for one in made.values()]))
        if step.shown:
            show(_log(folder, step).read_text(encoding="utf-8", errors="replace").rstrip())
        show(f"{outcome.name}: {outcome.state}, {outcome.seconds:.0f} s: {outcome.said}")
    return tuple(made.values())


def read_outcomes(folder: Path) -> tuple[Outcome, ...]:
    """Return what ``steps.json`` of an earlier run holds.

    Raises:
        UsageError: there is none, or it is no such file.
    """
    path = folder / STEPS_FILE
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return tuple(Outcome(**{**row, "command": tuple(row["command"])}) for row in rows)
    except OSError as error:
        raise UsageError(f"--resume: cannot read {path}: {reason(error)}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"--resume: {path} is no record of steps: {error}") from None


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """Return the first bad exit code; 1 for a step that did not end, 0 when all that could run is well."""
    for outcome in outcomes:
        if outcome.state == "failed":
            return outcome.exit_code or EXIT_FAILURE
        if outcome.state in ("deadline", "not-run"):
            return EXIT_FAILURE
    return EXIT_OK


def _log(folder: Path, step: Step) -> Path:
    return folder / f"{step.name}.log"


def _run(step: Step, folder: Path, seconds: float) -> Outcome:
    words = ("pabench", *step.words(seconds))
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([part for part in (os.environ.get("PYTHONPATH"), root) if part])
    began = time.monotonic()
    try:
        with _log(folder, step).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=None if step.shown else subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
            code = _wait(process, seconds)
    except OSError as error:
        raise EnvironmentRefused(f"cannot run a step in {folder}: {reason(error)}") from error
    if code is None:
        state = "deadline"
    elif code == EXIT_OK:
        state = "ok"
    else:
        state = "skipped" if step.may_lack and code == EXIT_ENVIRONMENT else "failed"
    lines = _log(folder, step).read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return Outcome(
        name=step.name,
        state=state,
        exit_code=code,
        seconds=round(time.monotonic() - began, 1),
        said=last[:300],
        command=words,
    )


def _wait(process: subprocess.Popen[Any], seconds: float) -> int | None:
    """Return the exit code, or None for a process that had to be ended: asked first, killed then."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SHUTDOWN_S)
        return None
    finally:
        # an interrupt of ours, too, leaves nothing behind
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
