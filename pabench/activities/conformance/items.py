# SPDX-License-Identifier: Apache-2.0
"""What a conformance run asks: one question of one subject an item, and the record that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pabench.checks.case_files import AnyCase, kind_of
from pabench.checks.results import CheckResult
from pabench.run.figures import figures_of
from pabench.run.plug import FailingCase
from pabench.run.record import Record, Status, Subject

COUNTED = dict.fromkeys(("cases", "operations", "max_ratio"), "counted")
ERRORS = ("max_abs_error", "max_rel_error")
"""Figures of checks that tell them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckItem:
    """A question with the subject that it is put to.

    Attributes:
        question: id of the question.
        about: what it asks.
        subject, subject_kind: who is asked.
        version, mode: of the subject, as far as they are known.
        broken: why the subject cannot be asked at all.
        workload: of a definition, that the question is about: ``definition``, ``solution``, ``workload``.
    """

    question: str
    about: str
    subject: str
    subject_kind: str
    version: str | None = None
    mode: str | None = None
    broken: str | None = None
    workload: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """Subject and question."""
        return f"{self.subject}/{self.question}"

    @property
    def label(self) -> str:
        """Subject and question."""
        return f"{self.subject} {self.question}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: the arguments of this class."""
        return asdict(self)

    def blank(self, device: str) -> Record:
        """See ``Item``."""
        return Record(
            kind="conformance",
            id=self.id,
            label=self.label,
            subject=Subject(kind=self.subject_kind, name=self.subject, version=self.version, mode=self.mode),
            device=device,
            status=Status.INTERRUPTED,
            figures=figures_of({"cases": 0, "operations": 0}, COUNTED),
            details={
                "check": self.question,
                "about": self.about,
                "findings": [],
                "deviations": [],
                "missing_badges": {},
                **(self.workload or {}),
            },
        )


def record_of_result(item: CheckItem, result: CheckResult) -> Record:
    """Return the record of an answered question."""
    blank = item.blank(result.device)
    values = {"cases": result.cases, "operations": result.operations, "max_ratio": result.max_ratio}
    counted = COUNTED
    if result.errors is not None:
        values |= dict(zip(ERRORS, result.errors, strict=True))
        counted = COUNTED | dict.fromkeys(ERRORS, "counted")
    details: Mapping[str, Any] = {
        "check": result.check,
        "about": result.about,
        "findings": list(result.findings),
        "deviations": list(result.deviations),
        "missing_badges": dict(result.missing_badges),
        "space": dict(result.space),
        "refused": dict(result.refused),
        "causes": dict(result.causes),
        "traceback": result.traceback,
        **(item.workload or {}),
    }
    return Record(
        kind=blank.kind,
        id=blank.id,
        label=blank.label,
        subject=blank.subject,
        device=result.device,
        status=result.status,
        reason=result.reason,
        figures=figures_of(values, counted),
        details=details,
        duration_s=result.duration_s,
    )


def failing_case(check: str, case: AnyCase) -> FailingCase:
    """Return a case as it is saved."""
    return FailingCase(check=check, kind=kind_of(case), case=case.to_dict(), id=case.id)
