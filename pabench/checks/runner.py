# SPDX-License-Identifier: Apache-2.0
"""Puts questions to subjects: a result each, whatever happens."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from pabench.checks.case_budget import CaseBudget
from pabench.checks.case_files import AnyCase
from pabench.checks.observer import CaseObserver
from pabench.checks.outcome import Outcome, raised
from pabench.checks.process import one_torch_thread
from pabench.checks.question import AnyQuestion
from pabench.checks.record import CheckRecord
from pabench.checks.results import CheckResult
from pabench.checks.scope import EVERYTHING, Scope
from pabench.checks.search import CheckFailed, Search
from pabench.checks.subject_facts import Judged
from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.run.record import Status


class Answer(NamedTuple):
    """A result, and the failing case where there is one."""

    result: CheckResult
    failing: AnyCase | None


@dataclass(slots=True, kw_only=True)
class CheckRunner:
    """Asks one question after another, in this process and without pytest.

    Attributes:
        device: where the subjects run.
        case_budget: how many cases a question draws.
        seed: of the generated cases.
        scope: what cases are drawn from, within what a subject declares.
        observer: hears of each case before it is judged.
        record: of the question that is being asked, or was last.
    """

    device: Device
    case_budget: CaseBudget
    seed: int
    scope: Scope = EVERYTHING
    observer: CaseObserver = field(default_factory=CaseObserver)
    record: CheckRecord = field(default_factory=CheckRecord)

    def ask(self, question: AnyQuestion, subject: Judged) -> CheckRecord:
        """Search for a failing case and return what happened; a failure is in its ``outcome``.

        Raises:
            Unsupported: no case was judged, and why.
            Exception: the subject raised where nothing is judged, or the suite is broken.
        """
        search = Search(
            subject=subject,
            device=self.device,
            case_budget=self.case_budget,
            seed=self.seed,
            scope=self.scope,
            observer=self.observer,
        )
        self.record = search.record
        # the verdict of a failure is in the record
        with one_torch_thread(), contextlib.suppress(CheckFailed):
            search.run(question)
        return search.record

    def answer(self, question: AnyQuestion, subject: Judged) -> Answer:
        """Ask, and return the result.  What ends the process, or the subject's own, is not caught."""
        began, unsupported = time.perf_counter(), None
        verdict: Outcome | None
        reason: str | None
        try:
            verdict = self.ask(question, subject).outcome
        except Unsupported as why:
            verdict, unsupported = None, str(why)
        except Exception as error:
            # something broke around the check: the exception says what
            verdict = self.record.outcome or raised(error)
        record = self.record
        if verdict is not None:
            status, reason = (Status.CRASHED if verdict.crashed else Status.FAILED), verdict.text
        elif unsupported is not None:
            status, reason = Status.UNSUPPORTED, unsupported
        else:
            status, reason = (Status.KNOWN_FAILURE if record.deviations else Status.PASSED), None
        result = CheckResult(
            check=record.check,
            about=record.about,
            subject=subject.name,
            subject_kind=subject.kind,
            device=self.device.name,
            status=status,
            cases=record.cases,
            max_ratio=record.worst,
            reason=reason,
            duration_s=round(time.perf_counter() - began, 3),
            findings=() if verdict is None else verdict.findings,
            deviations=tuple(record.deviations.values()),
            operations=record.operations,
            missing_badges=record.missing_badges,
            space=record.space.to_json(),
            refused=record.refused,
            causes={} if verdict is None else {cause.name: cause.words for cause in verdict.causes},
            errors=record.errors,
            traceback=None if verdict is None else verdict.traceback,
        )
        return Answer(result, None if verdict is None else record.failing)
