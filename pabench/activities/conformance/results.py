"""Results of a conformance run: one a check and subject, counted, and the exit code they lead to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pabench.errors import EXIT_FAILURE, EXIT_NOTHING_RAN, EXIT_OK

STATUSES = ("passed", "deviates", "failed", "unsupported", "crashed", "not-run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A saved failing case.

    Attributes:
        case_id: content hash of the case.
        text: what went wrong and where.
        path: the case directory, relative to the run.
        replay: command that runs it again.
    """

    case_id: str
    text: str
    path: str
    replay: str


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
        status: one of ``STATUSES``; ``deviates`` is a check that found known deviations and nothing else,
            ``not-run`` one that an interrupt cut short.
        reason: why it is not passed.
        deviations: known ones that were seen, each with ``name, kind, reason, text, case, cases``; see
            ``ledger.py``.
        findings: of a checked device, as plain data; see ``device/findings.py``.
        version: of the package of another project that the subject runs; None for our own.
        mode: how the backend runs it, see ``SubjectFacts``.
        lacks: badge to the first thing that speaks against it, of a check that passed; see ``standing.py``.
    """

    check: str
    about: str
    subject: str
    subject_kind: str
    device: str
    status: str
    cases: int
    max_ratio: float | None
    reason: str | None
    failure: Failure | None
    duration_s: float
    findings: tuple[dict[str, Any], ...] = ()
    deviations: tuple[dict[str, Any], ...] = ()
    operations: int = 0
    lacks: dict[str, str] = field(default_factory=dict)
    version: str | None = None
    mode: str | None = None

    @classmethod
    def not_run(
        cls, *, check: str, about: str, subject: str, subject_kind: str, device: str, cases: int
    ) -> CheckResult:
        """Return the result of a check that was interrupted after ``cases`` cases, which say nothing yet."""
        return cls(
            check=check,
            about=about,
            subject=subject,
            subject_kind=subject_kind,
            device=device,
            status="not-run",
            cases=0,
            max_ratio=None,
            reason=f"interrupted after {cases} cases",
            failure=None,
            duration_s=0.0,
        )

    def to_line(self) -> dict[str, Any]:
        """Return the journal line of this result."""
        return {"kind": "check", "id": f"{self.subject}/{self.check}", **asdict(self)}


def totals(results: Sequence[CheckResult]) -> dict[str, int]:
    """Return ``cases, checks, passed, deviates, failed, unsupported, crashed, not_run``."""
    counts = {status.replace("-", "_"): sum(r.status == status for r in results) for status in STATUSES}
    return {"cases": sum(r.cases for r in results), "checks": len(results), **counts}


def exit_code(results: Sequence[CheckResult]) -> int:
    """Return 1 when a check failed or crashed, 5 when none was judged, else 0."""
    counts = totals(results)
    if counts["failed"] or counts["crashed"]:
        return EXIT_FAILURE
    return EXIT_OK if counts["passed"] or counts["deviates"] else EXIT_NOTHING_RAN
