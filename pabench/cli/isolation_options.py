"""The options of every command that runs foreign code: a deadline, or no worker process at all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pabench.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


def isolation_options(command: Command) -> Command:
    """Add ``--deadline`` and ``--in-process``; the command gets ``deadline`` and ``in_process``."""
    deadline = click.option(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="A case that takes longer counts as hanging.  [default: 60]",
    )
    in_process = click.option(
        "--in-process", is_flag=True, help="No worker process, for debuggers: a crash ends the command."
    )
    return deadline(in_process(command))


def deadline_seconds(deadline: float | None, *, in_process: bool) -> float:
    """Return the deadline in force.

    Raises:
        UsageError: it is not a number of seconds, or is given where nothing can hold it.
    """
    from pabench.run.workers import DEFAULT_DEADLINE_S, MAX_DEADLINE_S

    if deadline is None:
        return DEFAULT_DEADLINE_S
    if in_process:
        raise UsageError("--deadline needs a worker process, must not be given with --in-process")
    if not math.isfinite(deadline) or not 0 < deadline <= MAX_DEADLINE_S:
        rule = f"must be more than 0 and at most {MAX_DEADLINE_S:g} seconds"
        raise UsageError(f"--deadline {deadline:g}: {rule}")
    return deadline


def parse_seconds(option: str, text: str) -> float:
    """Return the seconds that ``540``, ``540s`` or ``9m`` mean.

    Raises:
        UsageError: it reads otherwise, or is no time at all.
    """
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([sm]?)", text.strip(), re.ASCII)
    seconds = float(found[1]) * (60 if found[2] == "m" else 1) if found else 0.0
    if not seconds > 0:
        raise UsageError(f"{option} {text!r}: must be a time above 0 such as 540s or 9m")
    return seconds


def poll_seconds(deadline_s: float) -> int:
    """Return how long a kernel may poll in vain: less than the deadline, so that it says where it waits."""
    return max(1, int(deadline_s / 2))
