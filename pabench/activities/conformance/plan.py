"""What a run asks, in order."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.activities.conformance.request import ConformanceRequest
from pabench.checks.selection import select
from pabench.checks.suite import questions_for
from pabench.errors import Unsupported
from pabench.strategies.drawing import require_reproducible


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A question with the subject that it is put to."""

    question: str
    subject: str
    subject_kind: str


def plan_of(request: ConformanceRequest) -> tuple[Planned, ...]:
    """Return what ``request`` asks, one subject after another.

    Raises:
        UsageError: ``select`` names no question.
        Unsupported: it names none that its subjects are asked.
        EnvironmentRefused: no run could be repeated with the Hypothesis that is installed.
    """
    require_reproducible()
    chosen = None if request.select is None else frozenset(select(request.select))
    planned = []
    for kind, subject in request.subjects:
        asked = [row.id for row in questions_for(kind) if chosen is None or row.id in chosen]
        if request.questions:
            asked = [name for name in request.questions if name in asked]
        planned += [Planned(question=name, subject=subject, subject_kind=kind) for name in asked]
    if not planned and request.select is not None:
        who = ", ".join(subject for _, subject in request.subjects)
        raise Unsupported(f"-k {request.select!r}: leaves nothing to ask of {who}")
    return tuple(planned)
