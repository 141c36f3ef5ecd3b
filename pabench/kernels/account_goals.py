# SPDX-License-Identifier: Apache-2.0
"""Figures set for the hot loops of our kernels, and whether the compiled code meets them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabench.errors import InvalidCase
from pabench.kernels.account_table import KEY, Row
from pabench.problem.checks import one_of
from pabench.tables import check_fields, read_tables

FIGURES = {
    "registers": "registers",
    "ctas_per_sm": "blocks a multiprocessor",
    "instructions": "instructions a turn",
    "per_token": "instructions a key",
    "ldmatrix": "ldmatrix a turn",
    "tensor_before_use": "matrix instructions before a load is used",
    "most_tflops": "TFLOP/s at the bound",
}
"""Name in the table of accounts to words."""
TEXTS = {*KEY, "figure"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One figure set for one instance on one architecture.

    Attributes:
        kernel, instance, arch: the row of the table of accounts.
        figure: a key of ``FIGURES``.
        limit: what is set.
        least: whether the figure is to be at least ``limit``; else at most.
        missed: why it is missed; None where it is to be met.
    """

    kernel: str
    instance: str
    arch: str
    figure: str
    limit: float
    least: bool
    missed: str | None

    @property
    def words(self) -> str:
        """What is set, in words."""
        return f"at {'least' if self.least else 'most'} {self.limit:g} {FIGURES[self.figure]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A goal beside what the compiled code has; ``value`` is None where that is not known."""

    goal: Goal
    value: float | None

    @property
    def met(self) -> bool:
        """Whether the code is as good as the goal says."""
        if self.value is None:
            return False
        return self.value >= self.goal.limit if self.goal.least else self.value <= self.goal.limit

    @property
    def failure(self) -> str | None:
        """What is wrong: missed without a reason, or met beside a reason why it would be missed."""
        where = f"{self.goal.kernel}, {self.goal.instance}, {self.goal.arch}"
        found = "unknown" if self.value is None else f"{self.value:g}"
        if self.met and self.goal.missed:
            return f"{where}: {found}, {self.goal.words} was set: met, and yet the goal says why not"
        if not self.met and not self.goal.missed:
            return f"{where}: {found}, {self.goal.words} was set"
        return None


def read_goals(file: Path) -> tuple[Goal, ...]:
    """Return the goals of a file of ``[[goal]]`` tables.

    Raises:
        UsageError: the file cannot be read, or has no or other tables.
        InvalidCase: names the entry, the field and the rule.
    """
    found = []
    for at, entry in enumerate(read_tables(file, what="goals", entry="goal"), 1):
        try:
            found.append(_goal(entry))
        except InvalidCase as error:
            raise InvalidCase(f"{file.name}: goal {at}: {error.field}", error.value, error.rule) from None
    return tuple(found)


def held(goals: Iterable[Goal], rows: Sequence[Row]) -> tuple[Held, ...]:
    """Return each goal whose instance is among ``rows``, beside the figure that its row has."""
    known: dict[tuple[Any, ...], Mapping[str, Any]] = {tuple(row[name] for name in KEY): row for row in rows}
    found = []
    for goal in goals:
        row = known.get((goal.kernel, goal.instance, goal.arch))
        if row is not None:
            found.append(Held(goal=goal, value=row.get(goal.figure)))
    return tuple(found)


def _goal(entry: Any) -> Goal:
    check_fields(entry, TEXTS, TEXTS | {"least", "most", "missed"})
    for name in sorted(entry.keys() & (TEXTS | {"missed"})):
        if not isinstance(entry[name], str) or not entry[name].strip():
            raise InvalidCase(name, entry[name], "must be a text")
    one_of("figure", entry["figure"], FIGURES)
    limits = [name for name in ("least", "most") if name in entry]
    if len(limits) != 1:
        raise InvalidCase("least", entry.get("least"), "must be there, or most, and not both")
    limit = entry[limits[0]]
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < math.inf:
        raise InvalidCase(limits[0], limit, "must be a number above 0")
    texts = {name: entry[name] for name in TEXTS}
    return Goal(**texts, limit=limit, least=limits == ["least"], missed=entry.get("missed"))
