# SPDX-License-Identifier: Apache-2.0
"""The options of every activity, spelled the same."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from pabench.cores import usable_cores
from pabench.errors import UsageError
from pabench.run.deadlines import DEFAULT_DEADLINE_S, MAX_DEADLINE_S, deadline_help, deadline_on
from pabench.run.files import check_output

Command = TypeVar("Command", bound=Callable[..., Any])
MAX_DEFAULT_JOBS = 8
OPTIONAL = ("device", "kernels", "checked", "inputs", "seed", "jobs", "ray")
"""What an activity may have no use for; given to such a one, it is refused by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of every activity.

    Attributes:
        out: run directory; None for ``runs/<kind>-<UTC time>``.
        resume: go on with the run in ``out``.
        overwrite: remove the run that is in ``out`` first.
        device, kernels, checked, inputs, seed: what the bench is to open and draw from.
        deadline_s: seconds of silence that count as hanging.
        in_process: no worker process, for debuggers.
        jobs: workers side by side; None for the activity's own choice.
        ray: address of a Ray cluster that runs the items, or ``local``; None for this machine.
        budget_s: no item begins later; None for no limit.
        maxfail: no item begins after so many have failed, crashed or hung; None for no limit.
        json, junit, html: files to write.
        dry_run: name the items, write nothing.
    """

    out: Path | None = None
    resume: bool = False
    overwrite: bool = False
    device: str = "auto"
    kernels: Path | None = None
    checked: bool = False
    inputs: Path | None = None
    seed: int = 0
    deadline_s: float = DEFAULT_DEADLINE_S
    in_process: bool = False
    jobs: int | None = None
    ray: str | None = None
    budget_s: float | None = None
    maxfail: int | None = None
    json: Path | None = None
    junit: Path | None = None
    html: Path | None = None
    dry_run: bool = False


def activity_options(
    *, deadline_s: float = DEFAULT_DEADLINE_S, without: Sequence[str] = ()
) -> Callable[[Command], Command]:
    """Return a decorator that adds the options of ``Options``; the command gets them as keywords.

    ``options_of`` makes an ``Options`` of them.

    Args:
        deadline_s: default of ``--deadline``; see ``deadline_on``.
        without: of ``OPTIONAL``, what the activity has no use for; hidden, and refused when given.
    """
    file = click.Path(path_type=Path)

    def hidden(name: str) -> bool:
        return name in without

    told = deadline_help("case", deadline_s, checked=not hidden("checked"))
    made = [
        click.option("--out", metavar="DIR", help="Run directory.  [default: runs/KIND-TIME]"),
        click.option("--resume", is_flag=True, help="Continue the run in --out."),
        click.option("--overwrite", is_flag=True, help="Replace the run in --out."),
        click.option(
            "--device",
            metavar="NAME",
            hidden=hidden("device"),
            help="Device: auto, cuda, emulated, ptx:sm_80.  [default: auto]",
        ),
        click.option(
            "--kernels",
            type=file,
            metavar="DIR",
            hidden=hidden("kernels"),
            help="Folder of kernel sources to use instead of pabench's.",
        ),
        click.option(
            "--checked",
            is_flag=True,
            default=None,
            hidden=hidden("checked"),
            help="Check every memory access and barrier (not on a GPU).",
        ),
        click.option(
            "--inputs",
            type=file,
            metavar="FILE",
            hidden=hidden("inputs"),
            help="Captured activations (.npz) to draw inputs from.",
        ),
        click.option(
            "--seed", metavar="N", hidden=hidden("seed"), help="Seed for case generation.  [default: 0]"
        ),
        click.option("--deadline", metavar="SECONDS", help=told),
        click.option("--in-process", is_flag=True, help="Run without worker processes, for debuggers."),
        click.option(
            "--jobs",
            metavar="N",
            hidden=hidden("jobs"),
            help="Worker processes.  [default: PABENCH_JOBS, or one per core]",
        ),
        click.option(
            "--ray",
            metavar="ADDRESS",
            hidden=hidden("ray"),
            help="Run the items on a Ray cluster: HOST:PORT, auto, or local.",
        ),
        click.option(
            "--budget", metavar="TIME", help="Start no new work after this time, such as 540s or 9m."
        ),
        click.option("--maxfail", metavar="N", help="Start no new work after N failures."),
        click.option("-x", "first", is_flag=True, help="Start no new work after the first failure."),
        click.option("--json", "json_file", type=file, metavar="FILE", help="Write all results as JSON."),
        click.option("--junit", type=file, metavar="FILE", help="Write JUnit XML."),
        click.option("--html", type=file, metavar="FILE", help="Write the report here too."),
        click.option("--dry-run", is_flag=True, help="List what would run, and write nothing."),
    ]

    def decorate(command: Command) -> Command:
        for option in reversed(made):
            command = option(command)
        return command

    return decorate


def options_of(
    kind: str, given: dict[str, Any], *, deadline_s: float = DEFAULT_DEADLINE_S, without: Sequence[str] = ()
) -> Options:
    """Take the options of ``activity_options`` out of ``given`` and return them, checked.

    Raises:
        UsageError: a value that cannot be, or an option that this activity has no use for.
    """
    names = [field.name for field in fields(Options) if field.name != "maxfail"]
    spelled = {"json": "json_file", "deadline_s": "deadline", "budget_s": "budget"}
    first, maxfail = given.pop("first", False), given.pop("maxfail", None)
    if first and maxfail is not None:
        raise UsageError("-x is --maxfail 1: give one of them")
    taken = {name: given.pop(spelled.get(name, name), None) for name in names}
    if taken["out"] is not None:
        taken["out"] = folder_of("--out", taken["out"])
    for name in without:
        if taken[name] not in (None, False):
            raise UsageError(f"--{name}: pabench {kind} has no use for it")
    deadline, budget, jobs, seed = (taken.pop(name) for name in ("deadline_s", "budget_s", "jobs", "seed"))
    if taken["in_process"]:
        for option, value in (("--deadline", deadline), ("--jobs", jobs), ("--ray", taken["ray"])):
            if value is not None:
                raise UsageError(f"{option} needs worker processes, must not be given with --in-process")
    if taken["resume"] and taken["out"] is None:
        raise UsageError("--resume: needs the folder of the run", hint="add --out DIR")
    if taken["resume"] and taken["overwrite"]:
        raise UsageError("--resume continues a run, --overwrite removes it: give one of them")
    usual = deadline_on(taken["device"] or "auto", checked=bool(taken["checked"]), deadline_s=deadline_s)
    options = Options(
        **{name: value for name, value in taken.items() if value is not None},
        deadline_s=usual if deadline is None else deadline_of(deadline),
        budget_s=None if budget is None else parse_seconds("--budget", budget),
        maxfail=1 if first else None if maxfail is None else whole("--maxfail", maxfail, low=1, high=10**9),
        jobs=None if jobs is None else whole("--jobs", jobs, low=1, high=256),
        seed=0 if seed is None else whole("--seed", seed, low=0, high=2**63 - 1),
    )
    for name in ("json", "junit", "html"):
        if (file := getattr(options, name)) is not None:
            check_output(f"--{name}", file, made=options.out)
    return options


def folder_of(option: str, text: object) -> Path:
    """Return a folder that an option or a file names; raises ``UsageError``."""
    if not isinstance(text, str | Path) or not str(text):
        raise UsageError(f"{option}: {text!r} must be the name of a folder")
    return Path(text)


def deadline_of(text: str, option: str = "--deadline") -> float:
    """Return the seconds that a deadline gives; raises ``UsageError``."""
    return parse_seconds(option, text, most=MAX_DEADLINE_S)


def parse_seconds(option: str, text: str, *, most: float = 365 * 86_400.0) -> float:
    """Return a time such as ``540``, ``0.5``, ``540s``, ``9m`` or ``1.5h`` in seconds.

    Raises:
        UsageError: it is written otherwise, or is 0 or more than ``most``.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(s|m|h|)", text.strip(), re.ASCII)
    seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if not 0 < seconds <= most:
        rule = f"a time such as 540s, 9m or 1.5h, more than 0 and at most {most / 3600:g}h"
        raise UsageError(f"{option} {text!r}: must be {rule}")
    return seconds


def whole(option: str, text: str, *, low: int, high: int) -> int:
    """Return a whole number in ASCII digits; raises ``UsageError``."""
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text, re.ASCII) or not low <= int(text) <= high:
        raise UsageError(f"{option} {text!r}: must be a whole number from {low} to {high}")
    return int(text)


def default_jobs() -> int:
    """Return how many workers share the cores: ``PABENCH_JOBS``, else one a core, 8 at most.

    Raises:
        UsageError: the variable is no such number.
    """
    told = os.environ.get("PABENCH_JOBS")
    return whole("PABENCH_JOBS", told, low=1, high=256) if told else min(usable_cores(), MAX_DEFAULT_JOBS)


def default_out(kind: str) -> Path:
    """Return ``runs/<kind>-<UTC time>``, with a number behind it when two start in the same second."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path, number = Path("runs") / f"{kind}-{stamp}", 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{kind}-{stamp}-{number}"
    return path
