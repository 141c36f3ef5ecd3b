# SPDX-License-Identifier: Apache-2.0
"""Saves a case into a folder of the test's own choice, in the form of a run's failures."""

from __future__ import annotations

from pathlib import Path

from pabench.checks.case_files import SavedCase, kind_of, save_arrays
from pabench.run.failures import CASE_FILE, CASE_SCHEMA, VERDICT_FILE
from pabench.run.files import pretty


def save_case(folder: Path, saved: SavedCase, text: str) -> None:
    save_arrays(folder, saved.check, saved.case)
    (folder / VERDICT_FILE).write_text(text + "\n", encoding="utf-8")
    record = {
        "schema": CASE_SCHEMA,
        "check": saved.check,
        "subject": saved.subject,
        "device": saved.device,
        "kind": kind_of(saved.case),
        "case": saved.case.to_dict(),
    }
    (folder / CASE_FILE).write_text(pretty(record), encoding="utf-8")
