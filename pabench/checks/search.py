# SPDX-License-Identifier: Apache-2.0
"""The search for a failing case of one question: Hypothesis draws, the check judges, a record remembers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from hypothesis.strategies import SearchStrategy

from pabench.checks.case_budget import CaseBudget
from pabench.checks.case_files import AnyCase
from pabench.checks.failures import load_case
from pabench.checks.observer import CaseObserver
from pabench.checks.outcome import Outcome, failed
from pabench.checks.process import raise_if_interrupted
from pabench.checks.question import AllocatorQuestion, AllocatorRange, AnyQuestion, Question
from pabench.checks.record import CheckRecord
from pabench.checks.scope import EVERYTHING, Scope
from pabench.checks.space import refused
from pabench.checks.subject_facts import Judged
from pabench.device.base import Device, device_kind
from pabench.errors import Unsupported
from pabench.judge.allocators.history import HistoryCase
from pabench.problem.case import Case
from pabench.problem.dtypes import DTYPES
from pabench.problem.pool import KV_LAYOUTS
from pabench.strategies.drawing import no_foreign_constants
from pabench.strategies.drawn import Range
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.capabilities import Capabilities as AllocatorCapabilities
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.backends.base import Backend, Capabilities


class CheckFailed(AssertionError):
    """A check found its property broken; the message is the verdict."""


_told: list[tuple[Capabilities, Scope, dict[str, list[str]]]] = []


def _refused(can: Capabilities, scope: Scope, declared: Range) -> dict[str, list[str]]:
    """What a backend does not take, found once for all questions: its rule may be a process away."""
    if not _told or _told[0][0] is not can or _told[0][1] != scope:
        _told[:] = [(can, scope, refused(declared))]
    return _told[0][2]


@dataclass(slots=True, kw_only=True)
class Search:
    """One question put to one subject.

    Attributes:
        scope: what cases are drawn from, within what the subject declares.
        record: what has happened so far.
    """

    subject: Judged
    device: Device
    case_budget: CaseBudget
    seed: int
    scope: Scope = EVERYTHING
    observer: CaseObserver = field(default_factory=CaseObserver)
    record: CheckRecord = field(default_factory=CheckRecord)

    def run(self, question: AnyQuestion) -> None:
        """Ask; the answer is in ``record``.

        Raises:
            CheckFailed: with the verdict of the smallest failing case found.
            Unsupported: no case was judged, and why.
        """
        self.record.check, self.record.about = question.id, question.sentence
        if isinstance(question, AllocatorQuestion) and self.subject.allocator is not None:
            self.record.about = question.sentence_for(self.can)
        self.observer.check(self.record.check, self.record.about)
        if self.subject.lacking is not None:
            raise Unsupported(self.subject.lacking)
        if isinstance(question, Question):
            self._ask_backend(question)
        else:
            self._ask_allocator(question)

    def new_allocator(self, shape: PoolShape) -> PageAllocator:
        """Return an empty allocator of the kind that is judged."""
        return self._allocator.make(self.device, shape)

    @property
    def can(self) -> AllocatorCapabilities:
        """What the allocator declares."""
        return self._allocator.capabilities

    def declared(self) -> Range:
        """What cases of the backend are drawn from."""
        can, scope = self._backend.capabilities, self.scope
        most = can.max_head_dim if scope.max_head_dim is None else min(can.max_head_dim, scope.max_head_dim)
        return Range(
            subject=self.subject.name,
            device=self.device.name,
            dtypes=tuple(scope.of_dtypes(name for name in DTYPES if name in can.dtypes)) or tuple(DTYPES),
            kv_layouts=tuple(name for name in KV_LAYOUTS if name in can.kv_layouts) or KV_LAYOUTS,
            interleaved=(False, True) if can.interleaved else (False,),
            max_head_dim=most,
            features=tuple(scope.of_features(sorted(can.features))),
            always=tuple(sorted(can.requires)),
            operations=can.operations,
            supported=self._supports,
            takes=lambda case: can.why_not(case) is None,
            only=can.only,
            num_states=can.num_states,
        )

    def announce(self, case: AnyCase) -> None:
        """Say what is about to run, so that a crash has its case."""
        self.observer.case(case)

    def note(self, case: AnyCase, outcome: Outcome) -> None:
        """Record a judgement; raise ``CheckFailed`` when it is a failure that no known deviation explains."""
        raise_if_interrupted()
        outcome = self.observer.judged(outcome, self.device)
        for deviation in self.subject.known:
            if deviation.explains(self.record.check, case, outcome):
                self.record.count(case)
                self.record.meet(deviation, outcome)
                return
        self.record.judge(case, outcome)
        if not outcome.passed:
            raise CheckFailed(outcome.text)

    def _ask_backend(self, question: Question) -> None:
        declared, backend = self.declared(), self._backend
        self.record.refused = _refused(backend.capabilities, self.scope, declared)
        if (why := question.why_unasked(declared)) is not None:
            raise Unsupported(why)

        def run(case: Any) -> Outcome:
            return question.check.run(case, backend, self.device)

        self._see_again(run)
        examples = max(1, round(self.case_budget.examples * question.share))

        def judge(case: Any) -> None:
            self._judge(case, partial(run, case))

        self._draw(question.draw(declared), judge, examples, shrink=question.shrinks)

    def _ask_allocator(self, question: AllocatorQuestion) -> None:
        most = self.case_budget.machine_runs
        declared = AllocatorRange(subject=self.subject.name, can=self.can, runs=most)
        if (why := question.unasked(declared)) is not None:
            raise Unsupported(why)

        def run(case: HistoryCase) -> Outcome:
            return question.check.run(case, self.new_allocator, self.device)

        self._see_again(run)
        runs = question.runs or max(1, round(most * question.share))
        if question.machine is not None:
            self._run_machine(question.machine, runs)
        elif question.draw is not None:

            def judge(drawn: tuple[HistoryCase, int]) -> None:
                # saved with a failure, so that a replay meets the same
                case = replace(drawn[0], schedule=drawn[1])
                self._judge(case, partial(run, case))

            self._draw(st.tuples(question.draw(declared), st.integers(0, 2**16)), judge, runs)

    def _draw(
        self,
        cases: SearchStrategy[Any],
        judge: Callable[[Any], None],
        examples: int,
        *,
        shrink: bool = True,
    ) -> None:
        @self._settings(examples, shrink=shrink)
        @seed(self.seed)
        @given(cases)
        def judged(case: Any) -> None:
            judge(case)

        self._until_failure(judged)
        if self.record.cases == 0:
            why = f": {self.record.declined}" if self.record.declined else ""
            raise Unsupported(f"{self.subject.name} supports none of the cases of {self.record.check}{why}")

    def _run_machine(self, machine: type[RuleBasedStateMachine], runs: int) -> None:
        mine = type("Machine", (machine,), {"asking": self})
        self.device.reschedule(0)  # what a history says that has no other
        chosen = settings(self._settings(runs), stateful_step_count=self.case_budget.machine_steps)
        self._until_failure(lambda: run_state_machine_as_test(seed(self.seed)(mine), settings=chosen))

    def _see_again(self, run: Callable[[Any], Outcome]) -> None:
        """Play the cases of the known deviations that were found by this check; fail when one passes now."""
        for deviation in self.subject.known:
            saved = load_case(deviation.folder)
            if saved.check != self.record.check:
                continue
            case = saved.case
            try:
                outcome = self.observer.judge(case, partial(run, case))
            except Unsupported as declined:
                if device_kind(saved.device) != device_kind(self.device.name):
                    continue  # what another kind of device takes need not be taken here
                outcome = failed(f"its case is not supported any more: {declined}")
            if not deviation.explains(self.record.check, case, outcome):
                said = f"known deviation {deviation.name!r} does not happen any more: {outcome.text}"
                stale = failed(f"{said}; take it out of the ledger or end its range of versions")
                self.record.judge(case, stale)
                raise CheckFailed(stale.text)
            self.record.count(case)
            self.record.meet(deviation, outcome)

    def _until_failure(self, search: Callable[[], None]) -> None:
        """Run Hypothesis; say so when the failure it found does not happen again on the same case."""
        try:
            with no_foreign_constants():
                search()
        except Unsatisfiable:
            return  # the backend supports nothing that the strategy draws
        except Flaky:
            outcome = self.record.outcome
            if outcome is None:
                raise
            self.record.outcome = replace(outcome, text=f"not on every run: {outcome.text}")
            raise CheckFailed(self.record.outcome.text) from None

    def _judge(self, case: AnyCase, run: Callable[[], Outcome]) -> None:
        """Judge ``case`` and note the outcome, or why it was declined."""
        try:
            outcome = self.observer.judge(case, run)
        except Unsupported as why:
            self.record.declined = str(why)
            return
        self.note(case, outcome)

    def _supports(self, case: Case) -> bool:
        """Whether the backend declares that it can run ``case``; if not, the record has the reason."""
        why = self._backend.capabilities.why_not(case)
        # what a check said of a case that got as far as that tells more
        self.record.declined = self.record.declined or why
        return why is None

    def _settings(self, examples: int, *, shrink: bool = True) -> settings:
        return settings(
            max_examples=examples,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            print_blob=False,
            verbosity=Verbosity.quiet,
            phases=(Phase.generate, Phase.shrink)
            if shrink and self.case_budget.shrink
            else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )

    @property
    def _backend(self) -> Backend:
        if self.subject.backend is None:
            raise TypeError(f"{self.subject.name} is no backend")
        return self.subject.backend

    @property
    def _allocator(self) -> AllocatorEntry:
        if self.subject.allocator is None:
            raise TypeError(f"{self.subject.name} is no allocator")
        return self.subject.allocator
