# SPDX-License-Identifier: Apache-2.0
"""The folder of a failing case: written here alone, for every activity, and read by ``pabench replay``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from pabench.errors import EnvironmentRefused, reason
from pabench.run.files import atomic_write_text, pretty
from pabench.run.record import Failure

FAILURES = "failures"
CASE_FILE = "case.json"
VERDICT_FILE = "verdict.txt"
CASE_SCHEMA = 1
NAME_LENGTH = 80


def save_failure(
    run: Path,
    *,
    check: str,
    case_id: str,
    kind: str,
    case: Mapping[str, Any],
    subject: str,
    device: str,
    text: str,
    traceback: str | None = None,
    words: Sequence[str] = (),
    beside: Callable[[Path], None] = lambda folder: None,
) -> Failure:
    """Write ``failures/<case>-<check>-<subject>/`` and return where it is and how to run it again.

    Args:
        run: the run directory.
        check: id of the check that failed.
        case_id: content hash of the case.
        kind: of case: ``attention``, ``append``, ``merge`` or ``history``.
        case: as JSON values.
        subject: who failed it.
        device: where it ran.
        text: what was wrong, one line.
        traceback: of a subject that raised, as Python prints it.
        words: options that a replay needs beside the folder.
        beside: writes what else belongs in the folder.

    Raises:
        EnvironmentRefused: the folder cannot be written.
    """
    case_name = re.sub(r"[^A-Za-z0-9_-]", "-", case_id)[:NAME_LENGTH]
    folder = run / FAILURES / f"{case_name}-{_name(check, subject)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentRefused(f"cannot write {folder}: {reason(error)}") from error
    record = {
        "schema": CASE_SCHEMA,
        "check": check,
        "subject": subject,
        "device": device,
        "kind": kind,
        "case": dict(case),
    }
    atomic_write_text(folder / VERDICT_FILE, "\n".join([text, *_lines(traceback)]) + "\n")
    beside(folder)
    # the case comes last: it makes the folder whole
    atomic_write_text(folder / CASE_FILE, pretty(record))
    again = shlex.join(["pabench", "replay", str(folder), *words])
    return Failure(case_id=case_id, text=text, path=str(folder.relative_to(run)), replay=again)


def _name(check: str, subject: str) -> str:
    """Check and subject as a part of a folder's name; a subject that loses something has a hash behind it."""
    name = re.sub(r"[^A-Za-z0-9_]+", "-", f"{check.partition('[')[0]}-{subject}")
    if len(name) > NAME_LENGTH or re.search(r"[^A-Za-z0-9_-]", subject):
        name = f"{name[: NAME_LENGTH - 9]}-{sha256(subject.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return name


def _lines(traceback: str | None) -> list[str]:
    # an activity may leave anything in its details, and the first line of the file stays the verdict
    return ["", *traceback.rstrip().splitlines()] if isinstance(traceback, str) and traceback.strip() else []
