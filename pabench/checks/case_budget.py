# SPDX-License-Identifier: Apache-2.0
"""How many cases the questions of a run draw: the profiles of ``suites/conformance/profiles.toml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pabench.errors import InvalidCase
from pabench.problem.checks import whole_number
from pabench.resources import resource_dir
from pabench.tables import check_fields, read_tables

NUMBERS = ("examples", "machine_runs", "machine_steps")
MOST = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseBudget:
    """How many cases a question draws.

    Attributes:
        examples: cases of a common question; a row may ask for a share of it.
        machine_runs: histories of an allocator.
        machine_steps: operations of one history of a state machine.
        shrink: whether a failing case is made smaller before it is reported.
    """

    examples: int
    machine_runs: int
    machine_steps: int
    shrink: bool = True


def read_case_budgets(file: Path) -> dict[str, CaseBudget]:
    """Return the case budgets of a file by the name of their profile.

    Raises:
        UsageError: the file cannot be read, or has no or other tables than ``[[profile]]``.
        InvalidCase: names the entry, the field and the rule.
    """
    found: dict[str, CaseBudget] = {}
    for at, entry in enumerate(read_tables(file, what="profiles", entry="profile"), 1):
        try:
            check_fields(entry, {"name", *NUMBERS}, {"name", *NUMBERS})
            name = entry["name"]
            if not isinstance(name, str) or not name or name in found:
                raise InvalidCase("name", name, "must be a text that is there once")
            examples, runs, steps = (whole_number(field, entry[field], low=1, high=MOST) for field in NUMBERS)
            found[name] = CaseBudget(examples=examples, machine_runs=runs, machine_steps=steps)
        except InvalidCase as error:
            raise InvalidCase(f"{file.name}: profile {at}: {error.field}", error.value, error.rule) from None
    return found


CASE_BUDGETS = read_case_budgets(resource_dir("suites") / "conformance" / "profiles.toml")
"""By the name of a run's profile."""
