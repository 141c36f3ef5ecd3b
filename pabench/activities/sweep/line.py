# SPDX-License-Identifier: Apache-2.0
"""The record of a cell, before anything has run and as figures come in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pabench.activities.sweep.cell import COUNTED_FIGURES, Cell
from pabench.problem.case import Case
from pabench.run.figures import record_of_flat
from pabench.run.plug import Answer, FailingCase
from pabench.run.record import Status
from pabench.timing.gpus import gpu_by_name

NO_SPEED: dict[str, Any] = {
    "plan_ns": None,
    "run_ns": None,
    "prepare_ns": None,
    "run_token_heads": None,
    "modelled_ns": None,
    "modelled_tokens_per_s": None,
    "modelled_bound": None,
}


def blank_line(cell: Cell) -> dict[str, Any]:
    """Return the flat record of ``cell`` with its counted figures and no other."""
    line: dict[str, Any] = {
        "kind": "sweep",
        "id": cell.id,
        "label": replace(cell, replicate=None).label,
        "subject": cell.backend,
        "subject_kind": "backend",
        "status": Status.INTERRUPTED,
        "reason": None,
        **({} if cell.replicate is None else {"item": cell.question, "replicate": cell.replicate}),
        **cell.axes(),
        **cell.counted(),
        "check": None,
        **NO_SPEED,
        "modelled_gpu": gpu_by_name(cell.gpu).name.upper(),
    }
    line["provenance"] = dict.fromkeys(COUNTED_FIGURES, "counted")
    return line


def answer(
    line: dict[str, Any], status: Status, reason: str | None = None, failing: Case | None = None
) -> Answer:
    """Return what a bench gives back for a cell; ``failing`` is the case to save."""
    record = record_of_flat({**line, "status": status, "reason": reason})
    return Answer(record=record, failing=None if failing is None else failing_case(failing))


def failing_case(case: Case) -> FailingCase:
    """Return a case as it is saved: one of the ``decode`` check, which judges the same."""
    return FailingCase(check="decode", kind="attention", case=case.to_dict(), id=case.id)
