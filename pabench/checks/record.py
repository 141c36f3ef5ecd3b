# SPDX-License-Identifier: Apache-2.0
"""What happens while one question is asked of one subject."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pabench.checks.case_files import AnyCase
from pabench.checks.ledger import Deviation
from pabench.checks.outcome import Outcome, narrowed
from pabench.checks.space import Space
from pabench.judge.allocators.history import HistoryCase
from pabench.judge.suspect import Cause


@dataclass(slots=True)
class CheckRecord:
    """What was judged, and how it went.

    Attributes:
        check: id of the question.
        about: what it asks.
        cases: judged.
        operations: of all histories that were judged.
        max_ratio: largest err/T over the cases that passed.
        failing: the last failing case; Hypothesis runs the smallest one last.
        outcome: its verdict.
        fitting: explanations that fit all failing cases so far, from the first one on.
        deviations: known ones that were seen, by name.
        missing_badges: badge to the first thing that speaks against it.
        declined: why a case was not judged.
        space: what was drawn and judged.
        errors: of the last outcome that tells any, see ``Outcome.errors``.
        refused: axis of the drawn space to the classes that the subject does not take.
    """

    check: str = ""
    about: str = ""
    cases: int = 0
    operations: int = 0
    max_ratio: float | None = None
    failing: AnyCase | None = None
    outcome: Outcome | None = None
    fitting: tuple[Cause, ...] = ()
    deviations: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing_badges: dict[str, str] = field(default_factory=dict)
    declined: str | None = None
    space: Space = field(default_factory=Space)
    refused: dict[str, list[str]] = field(default_factory=dict)
    errors: tuple[float, float] | None = None

    def count(self, case: AnyCase) -> None:
        """Count a judged case, where it lies and, of a history, its operations."""
        self.cases += 1
        self.space.add(case)
        self.operations += len(case.operations) if isinstance(case, HistoryCase) else 0

    @property
    def worst(self) -> float | None:
        """Largest err/T over the cases that passed, or that of the failure."""
        return self.outcome.max_ratio if self.outcome is not None else self.max_ratio

    def meet(self, deviation: Deviation, outcome: Outcome) -> None:
        """Remember that a case showed a known deviation."""
        words = {name: getattr(deviation, name) for name in ("name", "kind", "reason", "case")}
        self.deviations.setdefault(deviation.name, {**words, "text": outcome.text, "cases": 0})["cases"] += 1

    def judge(self, case: AnyCase, outcome: Outcome) -> None:
        """Count a judged case; remember it when it failed."""
        self.count(case)
        self.errors = outcome.errors or self.errors
        for badge, why in outcome.missing_badges:
            self.missing_badges.setdefault(badge, why)
        if not outcome.passed:
            # what fits the first failing case, as it was drawn, and all on the way to the smallest one
            names = {cause.name for cause in outcome.causes}
            self.fitting = tuple(cause for cause in self.fitting if cause.name in names) or (
                self.fitting or outcome.causes
            )
            self.failing, self.outcome = case, narrowed(outcome, self.fitting)
        elif outcome.max_ratio is not None:
            self.max_ratio = max(self.max_ratio or 0.0, outcome.max_ratio)
