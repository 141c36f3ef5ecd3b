# SPDX-License-Identifier: Apache-2.0
"""The rows of the suite: what is asked of a subject, on which cases, and by which clause.

A new check takes a function, a row that names it in ``questions/``, a clause of docs/specification.md, and a
test.  Lists, runs, reports and the map of the specification follow from the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.strategies import SearchStrategy

from pabench.checks.outcome import Outcome
from pabench.device.base import Device
from pabench.judge.allocators.history import HistoryCase
from pabench.strategies.drawn import Range
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.capabilities import OPERATIONS, Capabilities
from pabench.subjects.backends.base import Backend

BackendCheck = Callable[[Any, Backend, Device], Outcome]
Maker = Callable[[PoolShape], PageAllocator]
"""Makes an empty allocator."""
HistoryCheck = Callable[[HistoryCase, Maker, Device], Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A named property of a backend.

    Attributes:
        id: name in reports and on the command line.
        operation: what the backend must offer, of ``Capabilities.operations``.
        run: the property itself.
        kind: of case that it takes, of ``READERS`` in ``case_files.py``.
    """

    id: str
    operation: str
    run: BackendCheck
    kind: str = "attention"

    @property
    def about(self) -> str:
        """The property in one sentence: the first line of the check's docstring."""
        return _sentence(self.run, self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorCheck:
    """A named property of a page allocator, judged over a history of operations."""

    id: str
    run: HistoryCheck

    @property
    def about(self) -> str:
        """The property in one sentence: the first line of the check's docstring."""
        return _sentence(self.run, self.id)

    def about_of(self, can: Capabilities) -> str:
        """Return ``about``, and what a subject does not offer, which is not judged."""
        missing = [operation for operation in OPERATIONS if operation not in can.operations]
        if not missing:
            return self.about
        words = f"{len(missing)} of {len(OPERATIONS)}, {', '.join(missing)}"
        return f"{self.about} Not offered and not judged: {words}."


def _sentence(run: Any, name: str) -> str:
    described = getattr(run, "about", None) or run.__doc__ or name
    return str(described).splitlines()[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A check of backends with the cases that it is asked on.

    Attributes:
        check: what is asked.
        clauses: of the specification, that it tests.
        draw: strategy of the cases, for what a backend declares.
        label: what tells this use of the check from others, such as the family.
        about: what this use asks, where the check's own sentence says too little.
        share: part of the profile's cases to draw.
        needs: feature without which a backend is not asked.
        against: features for which it does not hold; a backend that offers nothing without them is not asked.
        operation: what the backend must offer, where these cases ask for more than the check does.
        unasked: why nothing is drawn for such a backend; None where something is.
        shrinks: whether a failing case is made smaller; not where none is small and each step costs a second.
    """

    check: Check
    clauses: tuple[str, ...]
    draw: Callable[[Range], SearchStrategy[Any]]
    label: str | None = None
    about: str | None = None
    share: float = 1.0
    needs: str | None = None
    against: frozenset[str] = frozenset()
    operation: str | None = None
    unasked: Callable[[Range], str | None] = lambda declared: None
    shrinks: bool = True

    @property
    def id(self) -> str:
        """Name in reports and on the command line: the check's, with the label in brackets."""
        return _id(self.check.id, self.label)

    @property
    def subject_kind(self) -> str:
        """Whom it is put to."""
        return "backend"

    @property
    def sentence(self) -> str:
        """What it asks."""
        return self.about or self.check.about

    def why_unasked(self, declared: Range) -> str | None:
        """Return why it is not put to a backend that declares this, or None."""
        if (why := self.unasked(declared)) is not None:
            return why
        operation = self.operation or self.check.operation
        if not declared.offers(operation):
            return f"{declared.subject} offers no {operation}"
        if against := sorted(self.against.intersection(declared.always)):
            return f"{declared.subject} offers {', '.join(against)} alone, for which this does not hold"
        if self.needs is not None and self.needs not in declared.features:
            return f"{declared.subject} offers no {self.needs}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorRange:
    """What an allocator declares, and how hard it is asked.

    Attributes:
        subject: its name.
        can: its capabilities.
        runs: histories of the profile.
    """

    subject: str
    can: Capabilities
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorQuestion:
    """A check of page allocators with the histories that it is asked on: those of ``machine`` or of ``draw``.

    Attributes:
        check, clauses, label, about: as in ``Question``.
        machine: a state machine, see ``allocator_machine.py``.
        draw: strategy of whole histories of what is declared; each is judged on a drawn schedule.
        share: part of the profile's histories to draw.
        runs: how many to draw instead, whatever the profile.
        unasked: as in ``Question``.
    """

    check: AllocatorCheck
    clauses: tuple[str, ...]
    machine: type[RuleBasedStateMachine] | None = None
    draw: Callable[[AllocatorRange], SearchStrategy[HistoryCase]] | None = None
    label: str | None = None
    about: str | None = None
    share: float = 1.0
    runs: int | None = None
    unasked: Callable[[AllocatorRange], str | None] = lambda declared: None

    def __post_init__(self) -> None:
        if (self.machine is None) == (self.draw is None):
            raise TypeError(f"the row {self.id} must have either a machine or a strategy")

    @property
    def id(self) -> str:
        """Name in reports and on the command line: the check's, with the label in brackets."""
        return _id(self.check.id, self.label)

    @property
    def subject_kind(self) -> str:
        """Whom it is put to."""
        return "allocator"

    @property
    def sentence(self) -> str:
        """What it asks."""
        return self.about or self.check.about

    def sentence_for(self, can: Capabilities) -> str:
        """Return what it asks of a subject; a machine leaves out what is not offered, and says so."""
        return self.sentence if self.machine is None or self.about else self.check.about_of(can)


AnyQuestion = Question | AllocatorQuestion


def _id(check: str, label: str | None) -> str:
    return check if label is None else f"{check}[{label}]"
