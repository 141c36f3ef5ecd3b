# SPDX-License-Identifier: Apache-2.0
"""How a process ended, in words."""

from __future__ import annotations

import os
import re
import signal
import traceback
from dataclasses import dataclass

SIGNALS = {
    signal.SIGSEGV: "killed by SIGSEGV (segmentation fault)",
    signal.SIGBUS: "killed by SIGBUS (bus error)",
    signal.SIGILL: "killed by SIGILL (illegal instruction)",
    signal.SIGFPE: "killed by SIGFPE (arithmetic fault)",
    signal.SIGABRT: "aborted (SIGABRT)",
    signal.SIGKILL: "killed by SIGKILL (from outside, or by the system when memory runs out)",
}
FRAME = re.compile(r'^  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<name>.+)$', re.MULTILINE)
DUMP = re.compile(r"^(Fatal Python error: |Current thread |Thread 0x)", re.MULTILINE)
MAX_ERROR_TEXT = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The end of a process that should have gone on.

    Attributes:
        text: what happened, one line.
        hung: it was ended from outside because it made no progress.
    """

    text: str
    hung: bool = False


def ending_of(code: int, status: int, output: str = "") -> Ending:
    """Return how a process ended.

    Args:
        code: ``si_code`` of ``os.waitid``.
        status: ``si_status``: exit status or number of the signal.
        output: last lines that it wrote; where they hold a Python fault dump, the innermost frame is named.
    """
    if code == os.CLD_EXITED:
        return Ending(text=f"exited with status {status}")
    try:
        text = SIGNALS.get(signal.Signals(status)) or f"killed by {signal.Signals(status).name}"
    except ValueError:
        text = f"killed by signal {status}"
    return Ending(text=text + place_of(output))


def hung(deadline_s: float, output: str = "") -> Ending:
    """Return the ending of a process that said nothing for ``deadline_s`` seconds and was killed."""
    return Ending(text=f"hung: no progress for {deadline_s:g} s{place_of(output)}", hung=True)


def place_of(output: str) -> str:
    """Return the innermost Python frame of a fault dump as `` in NAME (FILE:LINE)``, or nothing."""
    start = DUMP.search(output)
    frame = FRAME.search(output, start.start()) if start else None
    if frame is None:
        return ""
    return f" in {frame['name']} ({os.path.basename(frame['file'])}:{frame['line']})"


def error_text(error: BaseException) -> str:
    """Return what a subject raised and where, as ``TYPE: MESSAGE in NAME (FILE:LINE)``, one line."""
    said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    said = said if len(said) <= MAX_ERROR_TEXT else f"{said[:MAX_ERROR_TEXT]}..."
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return said
    return f"{said} in {frames[-1].name} ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})"
