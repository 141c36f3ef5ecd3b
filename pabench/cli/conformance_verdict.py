# SPDX-License-Identifier: Apache-2.0
"""The verdict of a conformance run for programs: right or wrong, one entry per fault, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pabench.checks.faults import FoundFault, faults_of
from pabench.run.record import BROKEN, Record, Status

DEEPER = {"trial": "default", "quick": "default", "default": "deep"}


def verdict_of(records: Sequence[Record], *, profile: str) -> dict[str, Any]:
    """Return the verdict as plain JSON values.

    Args:
        records: of the checks.
        profile: how hard they were asked.
    """
    passed = [record for record in records if record.status == Status.PASSED]
    undecided = [record for record in records if record.status in UNDECIDED]
    broken = [record for record in records if record.status in BROKEN]
    right = bool(passed) and not broken and not undecided
    causes = [_cause(fault) for fault in faults_of([record.flat() for record in records])]
    return {
        "passed": right,
        "score": len(passed) / len(records) if right else 0.0,
        "causes": causes,
        "next_step": causes[0]["next_step"] if causes else _after(right, profile, undecided),
    }


UNDECIDED = (Status.INTERRUPTED, Status.INCONCLUSIVE)


def _cause(fault: FoundFault) -> dict[str, Any]:
    failure = fault.first.get("failure") or {}
    return {
        "subject": fault.subject,
        "cause": fault.words,
        "checks": list(fault.checks),
        "place": fault.place,
        "status": str(fault.first["status"]),
        "reason": str(fault.first.get("reason") or ""),
        "next_step": str(
            failure.get("replay") or f"fix what is said, then ask again: -k {fault.first['check']!r}"
        ),
    }


def _after(right: bool, profile: str, undecided: Sequence[Record]) -> str:
    if right:
        deeper = DEEPER.get(profile)
        return (
            f"run again with --profile {deeper}" if deeper else "nothing: every check that it offers passed"
        )
    if undecided:
        return f"{len(undecided)} checks have no verdict: run again with --resume --out of this run"
    return "nothing was judged: declare what it takes, or ask a check that it offers"
