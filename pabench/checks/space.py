# SPDX-License-Identifier: Apache-2.0
"""The drawn space: which classes of each axis a run has met, and which it never met.

Faults live where nothing is drawn, so a run says what it drew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pabench.checks.axes import AXES, Axis, DrawnCase, Met
from pabench.strategies.drawn import Range


@dataclass(slots=True)
class Reach:
    """What was met along one axis.

    Attributes:
        least, most: of the numbers met; None for an axis of names.
        classes: class to the cases that met it.
    """

    least: int | None = None
    most: int | None = None
    classes: dict[str, int] = field(default_factory=dict)

    def add(self, found: Met) -> None:
        """Count the classes of one case, each once."""
        seen = set()
        for name, number in found:
            seen.add(name)
            if number is not None:
                self.least = number if self.least is None else min(self.least, number)
                self.most = number if self.most is None else max(self.most, number)
        for name in seen:
            self.classes[name] = self.classes.get(name, 0) + 1

    def join(self, other: Reach) -> None:
        """Add what another part of a run has met."""
        for number in (other.least, other.most):
            if number is not None:
                self.least = number if self.least is None else min(self.least, number)
                self.most = number if self.most is None else max(self.most, number)
        for name, count in other.classes.items():
            self.classes[name] = self.classes.get(name, 0) + count


@dataclass(slots=True)
class Space:
    """What was met along all axes."""

    reached: dict[str, Reach] = field(default_factory=dict)

    def add(self, case: Any) -> None:
        """Count a case; one of an allocator has no place here."""
        if isinstance(case, get_args(DrawnCase)):
            for axis in AXES:
                found = tuple(axis.met(case))
                if found:
                    self.reached.setdefault(axis.name, Reach()).add(found)

    def join(self, other: Space) -> None:
        """Add what another part of a run has met."""
        for name, reach in other.reached.items():
            self.reached.setdefault(name, Reach()).join(reach)

    def to_json(self) -> dict[str, Any]:
        """Return axis to ``[least, most, {class: cases}]``."""
        return {name: [one.least, one.most, dict(one.classes)] for name, one in self.reached.items()}


def space_from_json(told: Any) -> Space:
    """Read ``Space.to_json`` back; what does not look like it is left out, for a journal is a stranger's."""
    space = Space()
    for name, one in told.items() if isinstance(told, Mapping) else ():
        if not (isinstance(one, list) and len(one) == 3 and isinstance(one[2], Mapping)):
            continue
        least, most, classes = one
        ends = all(end is None or type(end) is int for end in (least, most))
        if ends and all(type(count) is int for count in classes.values()):
            space.reached[str(name)] = Reach(
                least, most, {str(label): count for label, count in classes.items()}
            )
    return space


def refused(declared: Range) -> dict[str, list[str]]:
    """Return axis to the classes that a backend does not take; axes of which it takes all are left out."""
    found = {axis.name: [name for name in axis.classes if not axis.taken(declared, name)] for axis in AXES}
    return {name: classes for name, classes in found.items() if classes}


def unmet(axis: Axis, reach: Reach | None, not_taken: Iterable[str]) -> tuple[str, ...]:
    """Return the classes of ``axis`` that a backend takes and that no case met."""
    met = {} if reach is None else reach.classes
    without = set(not_taken)
    return tuple(name for name in axis.classes if name not in met and name not in without)
