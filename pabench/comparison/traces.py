# SPDX-License-Identifier: Apache-2.0
"""Records of solutions as lines of FlashInfer Trace."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from pabench import __version__
from pabench.errors import UsageError
from pabench.exchange.trace import NO_NUMBER, PASSED, TIMES, WRONG, check_trace
from pabench.run.read import Run
from pabench.run.record import Record, Status

STATUS = {
    Status.PASSED: PASSED,
    Status.KNOWN_FAILURE: WRONG,
    Status.FAILED: WRONG,
    Status.CRASHED: "RUNTIME_ERROR",
    Status.HUNG: "TIMEOUT",
}
MISFITS = {" has shape ": "INCORRECT_SHAPE", " has dtype ": "INCORRECT_DTYPE"}
"""Words of a verdict on an output that is no array of its shape or type."""
NOT_TIMED = "pabench judged this call and did not time it: the times are 0 for that reason"


def trace_bytes(runs: Sequence[Run]) -> bytes:
    """Return a line of JSON for each workload of a solution that runs have judged.

    A solution that drawn cases found wrong has no ``PASSED`` line: what passed alone is not right.

    Raises:
        UsageError: no run has judged a solution of a definition on a workload.
    """
    lines = [line for run in runs for line in _lines(run)]
    if not lines:
        raise UsageError(
            "no solution of a definition was judged in these runs",
            hint="pabench conformance --definitions DIR",
        )
    for line in lines:
        check_trace(line)
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _lines(run: Run) -> Iterator[dict[str, Any]]:
    for record in run.records:
        if "workload" in record.details and record.status in STATUS:
            wrong = next((one for one in run.records if _drawn_failure(one, record)), None)
            yield _line(run, record, wrong)


def _drawn_failure(one: Record, record: Record) -> bool:
    """Whether a drawn question found the solution of ``record`` wrong."""
    return (
        one.subject == record.subject
        and "workload" not in one.details
        and STATUS.get(one.status, PASSED) != PASSED
    )


def _line(run: Run, record: Record, wrong: Record | None) -> dict[str, Any]:
    told = wrong if wrong is not None and record.status is Status.PASSED else record
    status, log = STATUS[told.status], told.reason or ""
    if status == WRONG:
        status = next((found for words, found in MISFITS.items() if words in log), status)
    evaluation: dict[str, Any] = {
        "status": status,
        "environment": {"hardware": hardware(run, record), "libs": {"pabench": __version__}},
        "timestamp": str(run.record["started"]),
    }
    if status in (PASSED, WRONG):
        figures = {name: figure.value for name, figure in record.figures.items()}
        evaluation["correctness"] = {
            "max_relative_error": _number(figures.get("max_rel_error")),
            "max_absolute_error": _number(figures.get("max_abs_error")),
            "extra": {"error_over_bound": _number(figures.get("max_ratio"))},
        }
    if status == PASSED:
        evaluation["performance"] = dict.fromkeys(TIMES, 0.0)
        log = NOT_TIMED
    if told is not record:
        log = f"right on this workload, and wrong on a drawn case ({told.details.get('check')}): {log}"
    return {
        "definition": record.details["definition"],
        "workload": record.details["workload"],
        "solution": record.details["solution"],
        "evaluation": {**evaluation, "log": log},
    }


def hardware(run: Run, record: Record) -> str:
    """Return what a run was made on: the description of its device, or its name."""
    device = run.record.get("provenance", {}).get("device", {})
    return str(device.get("description") or record.device or "unknown")


def _number(value: Any) -> Any:
    finite = isinstance(value, int | float) and math.isfinite(value)
    return value if finite else NO_NUMBER
