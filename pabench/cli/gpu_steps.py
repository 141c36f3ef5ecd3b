# SPDX-License-Identifier: Apache-2.0
"""The steps of ``pabench gpu``: each a pabench command in a process of its own, with a deadline and a log.

What has been done stands in ``steps.json``, so that a run that was cut short goes on where it was.  A step
that goes wrong, or finds something wrong, does not keep the others from running.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pabench.errors import EXIT_ENVIRONMENT, EXIT_FAILURE, EXIT_OK, EnvironmentRefused, UsageError, reason
from pabench.run.files import atomic_write_text, pretty

STEPS_FILE = "steps.json"
SHUTDOWN_S = 15.0
"""Seconds that a step has to end in order, once its time is over."""
POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command.

    Attributes:
        name: of the step and of its log.
        part: ``check`` or ``sweep``.
        seconds: at most, of what is left of the budget.
        words: makes the arguments of ``pabench``, given the seconds that the step has.
        group: of steps that run at the same time; empty for one that runs alone.
        may_lack: whether exit code 7 means that a tool is missing here, and nothing else.
        shown: whether what it prints is shown, too.
        complete: whether a step that ended well has nothing left to do.
    """

    name: str
    part: str
    seconds: float
    words: Callable[[float], Sequence[str]]
    group: str = ""
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


def plan_of(steps: Iterable[Step], budget_s: float) -> str:
    """Return the steps in their order with the seconds that each may take, as lines of text."""
    lines = [f"at most {budget_s:.0f} s:"]
    for group in _groups(steps):
        names = " and ".join(", ".join(step.name for step in group).rsplit(", ", 1))
        seconds = max(step.seconds for step in group)
        rest = "what is left" if seconds >= budget_s else f"{seconds:.0f} s"
        lines.append(f"  {rest:<12}  {names}{', at the same time' if len(group) > 1 else ''}")
    return "\n".join(lines)


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
        steps: in their order; neighbours of one group run at the same time.
        folder: exists; gets the logs and ``steps.json``.
        ends_at: on ``time.monotonic``; no step begins afterwards.
        done: outcomes of an earlier call with the same folder.
        show: told one line a step, and the output of steps that are shown.
    """
    before = {outcome.name: outcome for outcome in done}
    made: dict[str, Outcome] = dict(before)
    for group in _groups(steps):
        open_steps = [step for step in group if not _is_done(before.get(step.name), step)]
        for step in group:
            if step not in open_steps:
                show(f"{step.name}: done before")
        for step, outcome in zip(open_steps, _run(open_steps, folder, ends_at), strict=True):
            made[step.name] = outcome
            if step.shown:
                show(_log(folder, step).read_text(encoding="utf-8", errors="replace").rstrip())
            show(f"{outcome.name}: {outcome.state}, {outcome.seconds:.0f} s: {outcome.said}")
        atomic_write_text(folder / STEPS_FILE, pretty([asdict(one) for one in made.values()]))
    return tuple(made.values())


def _groups(steps: Iterable[Step]) -> Iterator[list[Step]]:
    for _, group in itertools.groupby(steps, key=lambda step: step.group or step.name):
        yield list(group)


def _is_done(earlier: Outcome | None, step: Step) -> bool:
    return earlier is not None and earlier.state == "ok" and step.complete()


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


@dataclass(slots=True, kw_only=True)
class _Running:
    """A step's process."""

    step: Step
    words: tuple[str, ...]
    process: subprocess.Popen[Any]
    ends_at: float
    ended_at: float = 0.0


def _run(steps: Sequence[Step], folder: Path, ends_at: float) -> list[Outcome]:
    """Run the commands of one group side by side."""
    began = time.monotonic()
    left = ends_at - began
    if left <= 0:
        said = "no time was left"
        return [
            Outcome(name=step.name, state="not-run", exit_code=None, seconds=0.0, said=said) for step in steps
        ]
    running: list[_Running] = []
    try:
        for step in steps:
            seconds = min(left, step.seconds)
            words = ("pabench", *step.words(seconds))
            process = _start(step, words, folder)
            running.append(_Running(step=step, words=words, process=process, ends_at=began + seconds))
        late = _wait(running)
    except OSError as error:
        raise EnvironmentRefused(f"cannot run a step in {folder}: {reason(error)}") from error
    finally:
        # an interrupt of ours, too, leaves nothing behind
        for one in running:
            if one.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(one.process.pid, signal.SIGKILL)
                one.process.wait()
    return [
        _outcome(one, folder, seconds=one.ended_at - began, code=None if one in late else one.process.poll())
        for one in running
    ]


def _start(step: Step, words: Sequence[str], folder: Path) -> subprocess.Popen[Any]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([part for part in (os.environ.get("PYTHONPATH"), root) if part])
    with _log(folder, step).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=None if step.shown else subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
            preexec_fn=_take_interrupts,
        )


def _take_interrupts() -> None:
    """A shell that starts this command in the background has it ignore SIGINT, which would be inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait(running: Sequence[_Running]) -> list[_Running]:
    """Wait for the processes; return those whose time was over, which are asked to end."""
    late: list[_Running] = []
    open_ones = list(running)
    while open_ones:
        now = time.monotonic()
        for one in tuple(open_ones):
            if one.process.poll() is not None:
                one.ended_at = now
                open_ones.remove(one)
            elif one not in late and now >= one.ends_at:
                one.process.send_signal(signal.SIGINT)
                late.append(one)
            elif now >= one.ends_at + SHUTDOWN_S:
                one.ended_at = now
                open_ones.remove(one)
        time.sleep(POLL_S)
    return late


def _outcome(one: _Running, folder: Path, *, seconds: float, code: int | None) -> Outcome:
    step = one.step
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
        seconds=round(seconds, 1),
        said=last[:300],
        command=one.words,
    )
