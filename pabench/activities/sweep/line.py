"""The journal line of a cell, before anything has run, and after what ran went down with its process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pabench.activities.sweep.cell import COUNTED_FIGURES, Cell
from pabench.problem.case import Case
from pabench.timing.gpus import Gpu

NO_SPEED: dict[str, Any] = {
    "plan_ns": None,
    "run_ns": None,
    "run_token_heads": None,
    "modelled_ns": None,
    "modelled_tokens_per_s": None,
    "modelled_bound": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """A finished cell.

    Attributes:
        line: its journal line.
        failing: the case that failed or crashed, or None.
    """

    line: dict[str, Any]
    failing: Case | None = None


def blank_line(cell: Cell, gpu: Gpu) -> dict[str, Any]:
    """Return the line of ``cell`` with its counted figures and no other."""
    line: dict[str, Any] = {"kind": "cell", "id": cell.id, "status": "ok", "reason": None, **cell.axes()}
    line |= cell.counted() | {"check": None, **NO_SPEED, "modelled_gpu": gpu.name.upper()}
    line["provenance"] = dict.fromkeys(COUNTED_FIGURES, "counted")
    return line


def crashed_cell(line: Mapping[str, Any], reason: str, case: Case | None = None) -> CellResult:
    """Return the result of a cell whose backend ended its process, in the middle of ``case`` if in one."""
    check = None
    if case is not None:
        check = {"passed": False, "max_ratio": None, "text": reason, "case_id": case.id, "tokens": 0}
    return CellResult(line={**line, "status": "crashed", "reason": reason, "check": check}, failing=case)
