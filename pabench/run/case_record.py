"""The folder of a failing case, as every activity writes it and ``pabench replay`` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pabench.run.files import atomic_write_text, pretty

CASE_FILE = "case.json"
VERDICT_FILE = "verdict.txt"
CASE_SCHEMA = 1


def write_case(
    folder: Path, *, check: str, subject: str, device: str, kind: str, case: Mapping[str, Any], text: str
) -> None:
    """Write verdict and case into an existing folder; the case last, which makes the folder whole.

    Args:
        folder: where to.
        check: name of the check that failed.
        subject: who failed it.
        device: where it ran.
        kind: ``attention``, ``append`` or ``history``.
        case: as JSON values.
        text: what was wrong.
    """
    record = {
        "schema": CASE_SCHEMA,
        "check": check,
        "subject": subject,
        "device": device,
        "kind": kind,
        "case": dict(case),
    }
    atomic_write_text(folder / VERDICT_FILE, text + "\n")
    atomic_write_text(folder / CASE_FILE, pretty(record))
