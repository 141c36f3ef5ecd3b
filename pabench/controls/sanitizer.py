# SPDX-License-Identifier: Apache-2.0
"""The same controls under NVIDIA's compute-sanitizer on a GPU: what its tools say, beside what ours says.

The format of its output is described in the Compute Sanitizer manual (docs.nvidia.com/compute-sanitizer):
lines that start with ``=========``, an error's first line unindented after it, places as ``in FILE:LINE``,
and a summary at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabench.controls.child import MARKER
from pabench.controls.model import Control
from pabench.device.cuda import why_no_cuda
from pabench.errors import EnvironmentRefused

PROGRAM = "compute-sanitizer"
DEADLINE_S = 120
"""A control takes seconds under a tool; those that deadlock would take for ever."""
PLAIN_TOOL = "memcheck"
"""Watches those for whose fault no tool looks: a look-alike's result is judged on the GPU all the same."""

PREFIX = "========="
HEADLINE = re.compile(
    rf"^{PREFIX} ((?:Invalid|Uninitialized|Barrier error|(?:Error|Warning): (?:Race|Potential)).*)$",
    re.MULTILINE,
)
SUMMARY = re.compile(rf"^{PREFIX} (?:ERROR|\w+CHECK) SUMMARY: (\d+) (?:error|hazard)", re.MULTILINE)
PLACE = re.compile(rf"^{PREFIX} .*\.cu:(\d+)\b", re.MULTILINE)
REFUSED = re.compile(rf"^{PREFIX} (.*[Dd]evice not supported.*)$", re.MULTILINE)
"""What it says of GPUs that it cannot look into, such as those of some virtual machines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolVerdict:
    """What one tool of compute-sanitizer says of one control.

    Attributes:
        tool: ``memcheck``, ``initcheck``, ``racecheck`` or ``synccheck``.
        state: ``flagged``, ``clean``, ``deadline`` (ended by us), or ``failed`` (ended with no summary).
        lines: of the kernel file, as the tool names them.
        headline: the first error, or why there is no verdict.
        wrong: what a look-alike left wrong in its buffers on the GPU.
    """

    tool: str
    state: str
    lines: tuple[int, ...]
    headline: str | None
    wrong: str | None


def find_sanitizer() -> Path:
    """Return compute-sanitizer from the path, or from the folders where CUDA lies.

    Raises:
        EnvironmentRefused: it is not there, or there is no GPU.
    """
    if why := why_no_cuda():
        raise EnvironmentRefused(f"no CUDA device: {why}", hint="use --device emulated")
    roots = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    folders = [str(Path(root) / "bin") for root in (*roots, "/usr/local/cuda")]
    found = shutil.which(PROGRAM) or shutil.which(PROGRAM, path=os.pathsep.join(folders))
    if found is None:
        raise EnvironmentRefused(
            f"{PROGRAM} is neither on the path nor in {', '.join(folders)}",
            hint="install the CUDA toolkit, or set CUDA_HOME",
        )
    return Path(found)


def watch(control: Control, folder: Path, program: Path, *, deadline_s: float = DEADLINE_S) -> ToolVerdict:
    """Run ``control``, whose file lies in ``folder``, in a child process under its tool.

    Raises:
        EnvironmentRefused: ``program`` does not start, or cannot look into this GPU.
    """
    tool = control.tool if control.tool != "none" else PLAIN_TOOL
    child = [sys.executable, "-m", "pabench.controls.child", control.id, str(folder)]
    command = [str(program), "--tool", tool, "--print-limit", "20", *child]
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise EnvironmentRefused(f"{program} does not start: {error.strerror}") from None
    try:
        output, _ = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        _end(process)
        said = f"ended after {deadline_s:g} s"
        return ToolVerdict(tool=tool, state="deadline", lines=(), headline=said, wrong=None)
    except BaseException:
        _end(process)
        raise
    if refused := REFUSED.search(output):
        raise EnvironmentRefused(f"{PROGRAM} cannot look into this GPU: {refused[1]}")
    return read_output(tool, output)


def read_output(tool: str, output: str) -> ToolVerdict:
    """Return the verdict that the output of one run stands for."""
    told = _child_line(output)
    headlines = HEADLINE.findall(output)
    lines = tuple(sorted({int(number) for number in PLACE.findall(output)}))
    headline = headlines[0].strip() if headlines else None
    if headlines:
        state = "flagged"
    elif SUMMARY.search(output) and "wrong" in told:
        state = "clean"
    else:
        state = "failed"
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "no output")
        headline = str(told.get("error") or last.removeprefix(PREFIX).strip())
    return ToolVerdict(tool=tool, state=state, lines=lines, headline=headline, wrong=told.get("wrong"))


def _child_line(output: str) -> dict[str, Any]:
    """Return what the child printed; empty when it did not come that far."""
    for line in output.splitlines():
        if line.startswith(MARKER):
            with contextlib.suppress(ValueError):
                told = json.loads(line.removeprefix(MARKER))
                return told if isinstance(told, dict) else {}
    return {}


def _end(process: subprocess.Popen[str]) -> None:
    """End the child and the tool around it, which share a process group of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
