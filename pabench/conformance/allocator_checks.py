"""Checks of page allocators: a history of operations is a case, the invariants are the judgement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pabench.allocators.base import PageAllocator, PoolShape
from pabench.allocators.invariants import Trial
from pabench.conformance.outcome import PASSED, Outcome, failed, raised
from pabench.errors import InvalidCase
from pabench.problem.checks import INT32_MAX, whole_number
from pabench.problem.identity import content_id

HISTORY_SCHEMA = 1
Operation = tuple[str, Any]
"""``("extend", {sequence: tokens})``, ``("free", [sequence, ...])`` or ``("drain", None)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryCase:
    """A pool and the operations done to it."""

    shape: PoolShape
    operations: tuple[Operation, ...]

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return content_id(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the case as plain JSON values."""
        operations = [
            [name, [list(item) for item in given.items()] if name == "extend" else given]
            for name, given in self.operations
        ]
        return {"schema": HISTORY_SCHEMA, "shape": asdict(self.shape), "operations": operations}


def history_from_dict(data: Any) -> HistoryCase:
    """Read ``HistoryCase.to_dict`` back; raises ``InvalidCase``."""
    if not isinstance(data, dict) or data.get("schema") != HISTORY_SCHEMA:
        raise InvalidCase("history", data, f"must be a JSON object of schema {HISTORY_SCHEMA}")
    try:
        operations = tuple(_operation(entry) for entry in data["operations"])
        return HistoryCase(shape=PoolShape(**data["shape"]), operations=operations)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidCase("history", sorted(data), f"cannot be read: {error}") from None


def _operation(entry: Any) -> Operation:
    """Sequences and token counts may be any whole numbers: refusing them is what is tested."""
    name, given = entry
    if name not in ("extend", "free", "drain"):
        raise InvalidCase("operation", name, "must be extend, free or drain")
    numbers = [number for pair in given for number in pair] if name == "extend" else given or []
    for number in numbers:
        whole_number(f"number of {name}", number, low=-INT32_MAX)
    if name == "extend":
        return name, {sequence: tokens for sequence, tokens in given}
    return name, None if name == "drain" else list(given)


def judge_operation(trial: Trial, history: Sequence[Operation]) -> Outcome:
    """Do the last operation of ``history`` on a trial that has seen the others."""
    name, given = history[-1]
    try:
        if name == "extend":
            violation = trial.extend(given)
        else:
            violation = trial.free(given) if name == "free" else trial.drain()
    except Exception as error:
        outcome = raised(error)
        return replace(outcome, text=f"operation {len(history)} ({name}): {outcome.text}")
    return failed(f"operation {len(history)} ({name}): {violation}") if violation else PASSED


def check_history(case: HistoryCase, allocator: PageAllocator) -> Outcome:
    """After every operation all invariants hold; see ``allocators/invariants.py``."""
    trial = Trial(allocator)
    for count in range(1, len(case.operations) + 1):
        outcome = judge_operation(trial, case.operations[:count])
        if not outcome.passed:
            return outcome
    return PASSED
