# SPDX-License-Identifier: Apache-2.0
"""One line of a comparison."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pabench.run.record import Record


class Change(StrEnum):
    """What became of one thing between two runs."""

    SAME = "SAME"
    FASTER = "FASTER"
    SLOWER = "SLOWER"
    LESS = "LESS"
    """A counted figure fell, and less is better."""
    MORE = "MORE"
    """A counted figure rose, and less is better (or fell, where more is)."""
    CHANGED = "CHANGED"
    """It differs, and neither is better."""
    NEWLY_FAILING = "NEWLY FAILING"
    NEWLY_PASSING = "NEWLY PASSING"
    LOST = "LOST"
    """A feature, profile or badge that the base has."""
    GAINED = "GAINED"
    NEARER = "NEARER"
    """Still right, with less than half the room to the bound that there was."""
    UNSURE = "UNSURE"
    NEW = "NEW"
    """Not in the base."""


REGRESSIONS = frozenset({Change.SLOWER, Change.MORE, Change.NEWLY_FAILING, Change.LOST})
"""What makes a comparison fail."""
CLASSES = ("verdicts", "counted", "timed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """One thing that both runs could say something of.

    Attributes:
        part: ``verdicts``, ``counted`` or ``timed``.
        id, label, subject, device: of the item.
        figure: what is compared: a figure's name, ``status``, ``max_ratio``, a profile or a badge.
        base, new: values; of a timed figure the medians.
        ratio: new over base, where both are numbers above 0.
        low, high: interval of the ratio of a timed figure.
        change: what became of it.
        reason: why, in words.
        accepted: why a regression is let pass; empty where it is not.
    """

    part: str
    id: str
    label: str
    subject: str
    device: str
    figure: str
    base: Any
    new: Any
    change: Change
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    accepted: str = ""

    @property
    def worse(self) -> bool:
        """Whether it makes the comparison fail."""
        return self.change in REGRESSIONS and not self.accepted

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "change": str(self.change)}


def delta_of(record: Record, *, part: str, figure: str, change: Change, **told: Any) -> Delta:
    """Return a line of an item; ``told`` are further fields of ``Delta``."""
    return Delta(
        part=part,
        id=record.id,
        label=record.label,
        subject=record.subject.name,
        device=record.device,
        figure=figure,
        change=change,
        **{"base": None, "new": None, **told},
    )
