# SPDX-License-Identifier: Apache-2.0
"""The drawn space: per axis what the cases of a subject met, and what they could have met and did not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pabench.report.source import Source
from pabench.report.words import whole

if TYPE_CHECKING:
    from pabench.checks.space import Space


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisRow:
    """One axis.

    Attributes:
        axis: its name.
        ends: least and most of its numbers, or a dash.
        met: each class with the cases that met it.
        never: classes that the subject takes and no case met.
        refused: classes that the subject does not take.
    """

    axis: str
    ends: str
    met: str
    never: str
    refused: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnSpace:
    """The axes of one subject on one device."""

    subject: str
    device: str
    rows: tuple[AxisRow, ...]


def build_drawn(source: Source) -> tuple[DrawnSpace, ...]:
    """Return the drawn space of each subject and device that drew any, in the order of the journals."""
    if not source.checks:
        return ()
    # loads what draws cases, which the page of a sweep or a server does without
    from pabench.checks.space import Space, space_from_json

    spaces: dict[tuple[str, str], tuple[Space, dict[str, set[str]]]] = {}
    for line in source.checks:
        told = space_from_json(line.data.get("space"))
        if not told.reached:
            continue
        key = (str(line.data["subject"]), str(line.data.get("device") or ""))
        space, without = spaces.setdefault(key, (Space(), {}))
        space.join(told)
        refused = line.data.get("refused")
        for axis, classes in refused.items() if isinstance(refused, Mapping) else ():
            without.setdefault(str(axis), set()).update(
                map(str, classes if isinstance(classes, list) else ())
            )
    return tuple(
        DrawnSpace(subject=subject, device=device, rows=tuple(_rows(space, without)))
        for (subject, device), (space, without) in spaces.items()
    )


def _rows(space: Space, without: Mapping[str, set[str]]) -> list[AxisRow]:
    from pabench.checks.axes import AXES
    from pabench.checks.space import Reach, unmet

    rows = []
    for axis in AXES:
        reach, refused = space.reached.get(axis.name, Reach()), without.get(axis.name, set())
        others = [name for name in reach.classes if name not in axis.classes]
        met = [
            f"{name} ({whole(reach.classes[name])})"
            for name in (*axis.classes, *sorted(others))
            if name in reach.classes
        ]
        ends = "" if reach.least is None else f"{whole(reach.least)} to {whole(reach.most)}"
        rows.append(
            AxisRow(
                axis=axis.name,
                ends=ends,
                met=", ".join(met),
                never=", ".join(unmet(axis, reach, refused)),
                refused=", ".join(name for name in axis.classes if name in refused),
            )
        )
    return rows
