"""Checks of page allocators: a history of operations is a case, the invariants are the judgement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pabench.allocators.base import PageAllocator, PoolShape
from pabench.allocators.invariants import Trial
from pabench.conformance.outcome import PASSED, Outcome, failed
from pabench.errors import InvalidCase
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
        operations = []
        for name, given in data["operations"]:
            if name not in ("extend", "free", "drain"):
                raise InvalidCase("operation", name, "must be extend, free or drain")
            operations.append((name, {s: n for s, n in given} if name == "extend" else given))
        return HistoryCase(shape=PoolShape(**data["shape"]), operations=tuple(operations))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidCase("history", sorted(data), f"cannot be read: {error}") from None


def apply(trial: Trial, operation: Operation) -> str | None:
    """Do one operation on a trial; return a violation in words, or None."""
    name, given = operation
    if name == "extend":
        request: Mapping[int, int] = given
        return trial.extend(request)
    return trial.free(given) if name == "free" else trial.drain()


def check_history(case: HistoryCase, allocator: PageAllocator) -> Outcome:
    """After every operation all invariants hold; see ``allocators/invariants.py``."""
    trial = Trial(allocator)
    for number, operation in enumerate(case.operations, start=1):
        violation = apply(trial, operation)
        if violation:
            return failed(f"operation {number} ({operation[0]}): {violation}")
    return PASSED
