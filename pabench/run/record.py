# SPDX-License-Identifier: Apache-2.0
"""One result for all that pabench can be asked: what became of an item, and its figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from pabench.errors import (
    EXIT_FAILURE,
    EXIT_INCONCLUSIVE,
    EXIT_INTERRUPTED,
    EXIT_NOTHING_RAN,
    EXIT_OK,
)


class Status(StrEnum):
    """What became of an item."""

    PASSED = "passed"
    KNOWN_FAILURE = "known-failure"
    """It shows what the ledger says of this subject and version, and nothing else."""
    FAILED = "failed"
    CRASHED = "crashed"
    HUNG = "hung"
    UNSUPPORTED = "unsupported"
    INCONCLUSIVE = "inconclusive"
    INTERRUPTED = "interrupted"
    """The run ended while it was in work; it says nothing."""


BROKEN = frozenset({Status.FAILED, Status.CRASHED, Status.HUNG})
"""What makes a run a failure; of an activity that looks for hangs, see ``broken``."""
JUDGED = frozenset({Status.PASSED, Status.KNOWN_FAILURE})
"""What makes a run one in which something ran."""


class Provenance(StrEnum):
    """Where a figure comes from; two of a kind can be compared, others never."""

    MEASURED = "measured"
    COUNTED = "counted"
    MODELLED = "modelled"
    HOST = "host"


RENAMED_DETAILS = {"lacks": "missing_badges"}
"""Details of older journals by what they are called now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number, or a series of numbers, that cannot be without its unit and its provenance.

    Attributes:
        value: a number, a list of numbers, or a word for one of a few choices; None where there is none.
        unit: ``ns``, ``bytes``, ``tokens``, ...; empty for a plain number.
        provenance: where it comes from.
    """

    value: Any
    unit: str
    provenance: Provenance

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"value": self.value, "unit": self.unit, "provenance": str(self.provenance)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is judged.

    Attributes:
        kind: ``backend``, ``allocator``, or what an activity calls it.
        name: as on the command line.
        version: of the package of another project that it runs; None for our own.
        mode: how it is run, where there are several ways.
    """

    kind: str
    name: str
    version: str | None = None
    mode: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failing case that was saved.

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
class Record:
    """What became of one item.

    Attributes:
        kind: the activity: ``conformance``, ``sweep``, ``serving``, ``stress``, ``model``, or another plug.
        id: of the item; a content id, or names that say what was asked of whom.
        label: the item in words.
        subject: what was judged.
        device: name of the device it ran on.
        status: what became of it.
        reason: why it is not passed, one line.
        failure: where the failing case is.
        figures: numbers by name.
        details: what else the activity tells, JSON values.
        duration_s: of the host's clock.
    """

    kind: str
    id: str
    label: str
    subject: Subject
    device: str
    status: Status
    reason: str | None = None
    failure: Failure | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    duration_s: float | None = None

    def to_line(self) -> dict[str, Any]:
        """Return the journal line of this record, schema 2; ``record_of`` reads it back."""
        return {
            "kind": self.kind,
            "id": self.id,
            "label": self.label,
            "subject": asdict(self.subject),
            "device": self.device,
            "status": str(self.status),
            "reason": self.reason,
            "failure": None if self.failure is None else asdict(self.failure),
            "figures": {name: figure.to_dict() for name, figure in self.figures.items()},
            "details": dict(self.details),
            "duration_s": self.duration_s,
        }

    def flat(self) -> dict[str, Any]:
        """Return details, values of figures and the rest side by side, for tables.

        ``provenance`` maps each figure to its word.  ``subject`` is its name, ``subject_kind`` its kind.
        """
        return {
            **self.details,
            **{name: figure.value for name, figure in self.figures.items()},
            "provenance": {name: str(figure.provenance) for name, figure in self.figures.items()},
            "kind": self.kind,
            "id": self.id,
            "label": self.label,
            "subject": self.subject.name,
            "subject_kind": self.subject.kind,
            "version": self.subject.version,
            "mode": self.subject.mode,
            "device": self.device,
            "status": str(self.status),
            "reason": self.reason,
            "failure": None if self.failure is None else asdict(self.failure),
            "duration_s": self.duration_s,
        }


def record_of(line: Mapping[str, Any]) -> Record:
    """Read a journal line of schema 2, which ``schema.validate_line`` has let pass, back."""
    failure = line.get("failure")
    return Record(
        kind=line["kind"],
        id=line["id"],
        label=line["label"],
        subject=Subject(**line["subject"]),
        device=line["device"],
        status=Status(line["status"]),
        reason=line.get("reason"),
        failure=None if failure is None else Failure(**failure),
        figures={
            name: Figure(value=found["value"], unit=found["unit"], provenance=Provenance(found["provenance"]))
            for name, found in (line.get("figures") or {}).items()
        },
        details={
            RENAMED_DETAILS.get(name, name): value for name, value in (line.get("details") or {}).items()
        },
        duration_s=line.get("duration_s"),
    )


def broken(*, hang_is_result: bool) -> frozenset[Status]:
    """Return the statuses that make a run a failure.

    Args:
        hang_is_result: a call that takes too long is what is looked for, as in stress.
    """
    return BROKEN - {Status.HUNG} if hang_is_result else BROKEN


def exit_code(statuses: Iterable[Status], *, interrupted: bool = False, hang_is_result: bool = False) -> int:
    """Return the exit code that a run's statuses lead to; the one rule for all activities.

    Args:
        statuses: of all items that have ended.
        interrupted: the run was stopped from outside.
        hang_is_result: see ``broken``.

    Returns:
        2 interrupted, 1 something is wrong, 6 something could not be decided, 5 nothing ran, else 0.
    """
    seen = set(statuses)
    if interrupted or Status.INTERRUPTED in seen:
        return EXIT_INTERRUPTED
    if seen & broken(hang_is_result=hang_is_result):
        return EXIT_FAILURE
    if Status.INCONCLUSIVE in seen:
        return EXIT_INCONCLUSIVE
    return EXIT_OK if seen & (JUDGED | {Status.HUNG}) else EXIT_NOTHING_RAN
