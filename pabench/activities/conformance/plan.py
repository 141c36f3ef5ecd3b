# SPDX-License-Identifier: Apache-2.0
"""What a run asks, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pabench.activities.conformance.request import ConformanceRequest
from pabench.checks.selection import SEPARATORS, select
from pabench.checks.spec_version import read_spec
from pabench.checks.suite import questions_for
from pabench.checks.workloads import WORKLOAD, workload_check, workloads_of
from pabench.errors import Unsupported
from pabench.strategies.drawing import require_reproducible
from pabench.subjects.reference import BACKEND


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A question with the subject that it is put to; ``workload`` as of ``CheckItem``."""

    question: str
    subject: str
    subject_kind: str
    workload: dict[str, Any] | None = None


def plan_of(request: ConformanceRequest) -> tuple[Planned, ...]:
    """Return what ``request`` asks, one subject after another.

    Raises:
        UnknownName: no such version of the specification.
        UsageError: ``select`` names no question, or a Solution or its workloads break a rule.
        Unsupported: it names none that its subjects are asked.
        EnvironmentRefused: no run could be repeated with the Hypothesis that is installed.
    """
    require_reproducible()
    chosen, workloads = _chosen(request.select)
    asked_by_spec = None if request.spec is None else frozenset(read_spec(request.spec).questions)
    planned = []
    for kind, subject in request.subjects:
        asked = [row.id for row in questions_for(kind) if chosen is None or row.id in chosen]
        if asked_by_spec is not None:
            asked = [name for name in asked if name in asked_by_spec]
        if request.questions:
            asked = [name for name in request.questions if name in asked]
        planned += [Planned(question=name, subject=subject, subject_kind=kind) for name in asked]
        if kind == BACKEND and workloads:
            planned += _workloads(subject, request.workloads)
    if not planned and request.select is not None:
        who = ", ".join(subject for _, subject in request.subjects)
        raise Unsupported(f"-k {request.select!r}: leaves nothing to ask of {who}")
    return tuple(planned)


def _chosen(expression: str | None) -> tuple[frozenset[str] | None, bool]:
    """Ids that ``-k`` means, None for all, and whether workloads are asked, for which it has a word too."""
    if expression is None:
        return None, True
    parts = SEPARATORS.split(expression.strip())
    rest = [part for part in parts if part != WORKLOAD.id]
    return frozenset(select(", ".join(rest)) if rest else ()), len(rest) < len(parts)


def _workloads(subject: str, file: str | None) -> list[Planned]:
    asked = workloads_of(subject, file)
    if asked is None:
        return []
    named = {"definition": asked.meant.definition.name, "solution": asked.solution}
    return [
        Planned(
            question=f"{workload_check(asked.meant).id}[{one.uuid}]",
            subject=subject,
            subject_kind=BACKEND,
            workload={**named, "workload": one.to_dict()},
        )
        for one in asked.workloads
    ]
