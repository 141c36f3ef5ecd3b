"""What a test of the suite is given: a subject, an effort, and a notebook for what was judged.

A test draws cases by a strategy and hands each to a check.  Hypothesis runs the smallest failing case last,
so the last failure in the notebook is the shrunk one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from hypothesis.strategies import SearchStrategy

from pabench.activities.conformance.process import raise_if_interrupted
from pabench.checks.allocator_checks import ALLOCATOR_CHECKS, about_allocator_check
from pabench.checks.case_files import AnyCase
from pabench.checks.failures import load_case
from pabench.checks.ledger import Deviation
from pabench.checks.outcome import Outcome, failed
from pabench.checks.registry import Check
from pabench.checks.scope import EVERYTHING, Scope
from pabench.checks.witness import Witness
from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.judge.allocators.history import HistoryCase
from pabench.problem.case import Case
from pabench.problem.dtypes import DTYPES
from pabench.problem.pool import KV_LAYOUTS
from pabench.strategies import HEAD_DIMS
from pabench.strategies.drawing import no_foreign_constants
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.capabilities import Capabilities as AllocatorCapabilities
from pabench.subjects.allocators.registry import AllocatorEntry
from pabench.subjects.backends.base import Backend

REHEARSED = "rehearsed"


class CheckFailed(AssertionError):
    """A check found its property broken; the message is the verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How many cases a check draws.

    Attributes:
        examples: cases of a common check; a check may ask for a share of it.
        machine_runs: histories of a state machine.
        machine_steps: operations of one history.
        shrink: whether a failing case is made smaller before it is reported.
    """

    examples: int
    machine_runs: int
    machine_steps: int
    shrink: bool = True


PROFILES = {
    "glance": Effort(examples=8, machine_runs=12, machine_steps=25),
    "quick": Effort(examples=60, machine_runs=100, machine_steps=25),
    "default": Effort(examples=400, machine_runs=400, machine_steps=40),
    "deep": Effort(examples=5000, machine_runs=5000, machine_steps=100),
}


@dataclass(slots=True)
class Notebook:
    """What happened within one test; ``declined`` is why a case was not judged."""

    check: str = ""
    about: str = ""
    cases: int = 0
    operations: int = 0
    max_ratio: float | None = None
    failing: AnyCase | None = None
    outcome: Outcome | None = None
    deviations: dict[str, dict[str, Any]] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)
    declined: str | None = None

    def count(self, case: AnyCase) -> None:
        """Count a judged case and, of a history, its operations."""
        self.cases += 1
        self.operations += len(case.operations) if isinstance(case, HistoryCase) else 0

    @property
    def worst(self) -> float | None:
        """Largest err/T over the cases that passed, or that of the failure."""
        return self.outcome.max_ratio if self.outcome is not None else self.max_ratio

    def meet(self, deviation: Deviation, outcome: Outcome) -> None:
        """Remember that a case showed a known deviation."""
        words = {name: getattr(deviation, name) for name in ("name", "kind", "reason", "case")}
        self.deviations.setdefault(deviation.name, {**words, "text": outcome.text, "cases": 0})["cases"] += 1

    def record(self, case: AnyCase, outcome: Outcome) -> None:
        """Count a judged case; remember it when it failed."""
        self.count(case)
        for badge, why in outcome.lacks:
            self.lacks.setdefault(badge, why)
        if not outcome.passed:
            self.failing, self.outcome = case, outcome
        elif outcome.max_ratio is not None:
            self.max_ratio = max(self.max_ratio or 0.0, outcome.max_ratio)


@dataclass(slots=True, kw_only=True)
class Examiner:
    """Examines one subject; a fixture of the suite.

    Attributes:
        scope: what cases are drawn from, within what the subject declares.
        lacking: why the subject cannot be had here; each test is left as soon as it has named its check.
        rehearsal: likewise, without a reason.
    """

    subject: str
    device: Device
    effort: Effort
    seed: int
    backend: Backend | None = None
    allocator: AllocatorEntry | None = None
    known: tuple[Deviation, ...] = ()
    lacking: str | None = None
    scope: Scope = EVERYTHING
    rehearsal: bool = False
    notebook: Notebook = field(default_factory=Notebook)
    witness: Witness = field(default_factory=Witness)

    def examine(
        self,
        check: Check,
        cases: SearchStrategy[Any],
        *,
        label: str | None = None,
        about: str | None = None,
        needs: str | None = None,
        operation: str | None = None,
        unasked: str | None = None,
        share: float = 1.0,
    ) -> None:
        """Draw cases and hand each to ``check``.

        Args:
            check: from the registry.
            cases: strategy of the check's kind of case.
            label: what tells this use of the check from others, such as the family.
            about: what this use asks, when the check's own sentence says too little.
            needs: feature without which the backend is not examined.
            operation: what the backend must offer, when these cases ask for more than the check does.
            unasked: why nothing is drawn, where nothing is.
            share: part of the effort's examples to draw.

        Raises:
            CheckFailed: with the verdict of the smallest failing case found.
        """
        backend = self.backend
        if backend is None:
            raise TypeError("examine needs a backend; an allocator is examined by examine_machine")
        self._begin(check.id if label is None else f"{check.id}[{label}]", about or check.about)
        if unasked is not None:
            pytest.skip(unasked)
        asked = operation or check.operation
        if asked not in backend.capabilities.operations:
            pytest.skip(f"{self.subject} offers no {asked}")
        if needs is not None and needs not in self.features:
            pytest.skip(f"{self.subject} offers no {needs}")
        self._see_again(lambda case: check.run(case, backend, self.device))

        @self._settings(max(1, round(self.effort.examples * share)))
        @seed(self.seed)
        @given(cases)
        def judged(case: Any) -> None:
            self._judge(case, lambda: check.run(case, backend, self.device))

        self._until_failure(judged)
        self._skip_unjudged()

    def examine_machine(
        self, check: str, machine: type[RuleBasedStateMachine], *, share: float = 1.0
    ) -> None:
        """Run a state machine that calls ``announce`` before a step and ``note`` with a finished history.

        Args:
            check: of ``ALLOCATOR_CHECKS``.
            machine: of Hypothesis.
            share: part of the effort's runs.
        """
        self._begin(check, about_allocator_check(check, self.allocator_capabilities))
        self._see_again(lambda case: ALLOCATOR_CHECKS[check](case, self.new_allocator, self.device))
        runs = max(1, round(self.effort.machine_runs * share))
        self.device.reschedule(0)  # what a history says that has no other
        chosen = settings(self._settings(runs), stateful_step_count=self.effort.machine_steps)
        self._until_failure(lambda: run_state_machine_as_test(seed(self.seed)(machine), settings=chosen))

    def examine_histories(
        self,
        check: str,
        cases: SearchStrategy[HistoryCase],
        *,
        label: str | None = None,
        about: str | None = None,
        unasked: str | None = None,
        share: float = 1.0,
    ) -> None:
        """Draw histories and hand each to a check of ``ALLOCATOR_CHECKS``, on a drawn schedule.

        ``label``, ``about`` and ``share`` are those of ``examine``, the share of the effort's runs.  With
        ``unasked``, the reason, nothing is drawn.
        """
        self._begin(check if label is None else f"{check}[{label}]", about or about_allocator_check(check))
        if unasked is not None:
            pytest.skip(unasked)
        schedules = st.integers(0, 2**16)

        @self._settings(max(1, round(self.effort.machine_runs * share)))
        @seed(self.seed)
        @given(cases, schedules)
        def judged(case: HistoryCase, schedule: int) -> None:
            case = replace(case, schedule=schedule)  # saved with a failure, so that a replay meets the same
            judge = ALLOCATOR_CHECKS[check]
            self._judge(case, lambda: judge(case, self.new_allocator, self.device))

        self._until_failure(judged)
        self._skip_unjudged()

    def new_allocator(self, shape: PoolShape) -> PageAllocator:
        """Return an empty allocator of the kind under examination."""
        return self._allocator().make(self.device, shape)

    @property
    def allocator_capabilities(self) -> AllocatorCapabilities:
        """What the allocator under examination declares."""
        return self._allocator().capabilities

    def _allocator(self) -> AllocatorEntry:
        if self.allocator is None:
            raise TypeError("this needs an allocator; a backend is examined by examine")
        return self.allocator

    def supports(self, case: Case) -> bool:
        """Whether the backend declares that it can run ``case``; if not, the notebook has the reason."""
        if self.backend is None:
            return False
        why = self.backend.capabilities.why_not(case)
        # what a check said of a case that got as far as that tells more
        self.notebook.declined = self.notebook.declined or why
        return why is None

    @property
    def choices(self) -> dict[str, Any]:
        """Arguments of the strategies, so that they draw what the backend declares and little else.

        A narrow backend is then judged by as many cases as a wide one; ``supports`` is left with its rule.
        """
        if self.backend is None:
            return {}
        can = self.backend.capabilities
        return {
            "dtypes": self.scope.of_dtypes(name for name in DTYPES if name in can.dtypes) or list(DTYPES),
            "kv_layouts": [name for name in KV_LAYOUTS if name in can.kv_layouts] or list(KV_LAYOUTS),
            "interleaved": [False, True] if can.interleaved else [False],
            "head_dims": self.head_dims(),
        }

    @property
    def features(self) -> list[str]:
        """What the backend declares beyond plain attention."""
        return self.scope.of_features(sorted(self.backend.capabilities.features)) if self.backend else []

    def offers(self, operation: str) -> bool:
        """Whether the backend declares ``operation``."""
        return self.backend is not None and operation in self.backend.capabilities.operations

    def head_dims(self, among: Sequence[int] = HEAD_DIMS) -> list[int]:
        """Return those of ``among`` that the backend declares, or all when it declares none of them."""
        return [size for size in among if size <= self.max_head_dim] or list(among)

    @property
    def max_head_dim(self) -> int:
        """Largest head dimension that the backend declares, within the scope."""
        declared = self.backend.capabilities.max_head_dim if self.backend else 0
        return declared if self.scope.max_head_dim is None else min(declared, self.scope.max_head_dim)

    def announce(self, case: AnyCase) -> None:
        """Say what is about to run, so that a crash has its case."""
        self.witness.case(case)

    def note(self, case: AnyCase, outcome: Outcome) -> None:
        """Record a judgement; raise ``CheckFailed`` when it is a failure that no known deviation explains."""
        raise_if_interrupted()
        outcome = self.witness.judged(outcome, self.device)
        for deviation in self.known:
            if deviation.explains(self.notebook.check, case, outcome):
                self.notebook.count(case)
                self.notebook.meet(deviation, outcome)
                return
        self.notebook.record(case, outcome)
        if not outcome.passed:
            raise CheckFailed(outcome.text)

    def _begin(self, check: str, about: str) -> None:
        self.notebook.check, self.notebook.about = check, about
        self.witness.check(check, about)
        if self.lacking is not None:
            pytest.skip(self.lacking)
        if self.rehearsal:
            pytest.skip(REHEARSED)

    def _see_again(self, run: Callable[[Any], Outcome]) -> None:
        """Play the cases of the known deviations that were found by this check; fail when one passes now."""
        for deviation in self.known:
            saved = load_case(deviation.folder)
            if saved.check != self.notebook.check:
                continue
            case = saved.case
            try:
                outcome = self.witness.judge(case, partial(run, case))
            except Unsupported as declined:
                outcome = failed(f"its case is not supported any more: {declined}")
            if not deviation.explains(self.notebook.check, case, outcome):
                said = f"known deviation {deviation.name!r} does not happen any more: {outcome.text}"
                stale = failed(f"{said}; take it out of the ledger or end its range of versions")
                self.notebook.record(case, stale)
                raise CheckFailed(stale.text)
            self.notebook.count(case)
            self.notebook.meet(deviation, outcome)

    def _until_failure(self, search: Callable[[], None]) -> None:
        """Run Hypothesis; say so when the failure it found does not happen again on the same case."""
        try:
            with no_foreign_constants():
                search()
        except Unsatisfiable:
            return  # the backend supports nothing that the strategy draws
        except Flaky:
            outcome = self.notebook.outcome
            if outcome is None:
                raise
            self.notebook.outcome = replace(outcome, text=f"not on every run: {outcome.text}")
            raise CheckFailed(self.notebook.outcome.text) from None

    def _judge(self, case: AnyCase, run: Callable[[], Outcome]) -> None:
        """Judge ``case`` and note the outcome, or why it was declined."""
        try:
            outcome = self.witness.judge(case, run)
        except Unsupported as why:
            self.notebook.declined = str(why)
            return
        self.note(case, outcome)

    def _skip_unjudged(self) -> None:
        """Leave a test that has judged no case, with the reason why one was declined."""
        if self.notebook.cases == 0:
            why = f": {self.notebook.declined}" if self.notebook.declined else ""
            pytest.skip(f"{self.subject} supports none of the cases of {self.notebook.check}{why}")

    def _settings(self, examples: int) -> settings:
        return settings(
            max_examples=examples,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            print_blob=False,
            phases=(Phase.generate, Phase.shrink) if self.effort.shrink else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
