# SPDX-License-Identifier: Apache-2.0
"""What came of a question: one result a check and subject."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pabench.run.record import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One check of one subject.

    Attributes:
        check: id of the check, with the family in brackets where there is one.
        subject: name of the backend or allocator.
        subject_kind: ``backend`` or ``allocator``.
        cases: generated problems that were judged.
        operations: of all histories that were judged; 0 where the cases are no histories.
        max_ratio: largest err/T over all judged cases, that of the failure when there is one; None when no
            number was compared.
        status: what became of it; ``known-failure`` is a check that found known deviations and nothing else.
        reason: why it is not passed.
        deviations: known ones that were seen, each with ``name, kind, reason, text, case, cases``; see
            ``ledger.py``.
        findings: of a checked device, as plain data; see ``device/findings.py``.
        space: what was drawn and judged, see ``Space.to_json``.
        refused: axis of the drawn space to the classes that the subject does not take.
        causes: the explanations that fit the failure: name to words; see ``faults.py``.
        errors: largest absolute and relative error of the output, where the check tells them.
        traceback: of a subject that raised, as Python prints it.
        missing_badges: badge to the first thing that speaks against it, of a check that passed.
    """

    check: str
    about: str
    subject: str
    subject_kind: str
    device: str
    status: Status
    cases: int
    max_ratio: float | None
    reason: str | None
    duration_s: float
    findings: tuple[dict[str, Any], ...] = ()
    deviations: tuple[dict[str, Any], ...] = ()
    operations: int = 0
    missing_badges: dict[str, str] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, list[str]] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)
    errors: tuple[float, float] | None = None
    traceback: str | None = None
