# SPDX-License-Identifier: Apache-2.0
"""A pool and what was done to it, as a case that can be saved and run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from pabench.errors import InvalidCase, OutOfPages
from pabench.judge.allocators.invariants import violation
from pabench.judge.allocators.operations import ADDED, Operation, arguments, operation_from_json
from pabench.problem.checks import whole_number
from pabench.problem.identity import content_id
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.groups import KvGroup

HISTORY_SCHEMA = 4
ADDED_SIZES: dict[str, Any] = {"groups": [], "host_pages": 0}
"""Sizes of a pool that need not be there, and what they are then."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class HistoryCase:
    """A pool and the operations done to it.

    Attributes:
        shape: of the pool.
        operations: in their order.
        schedule: seed of the order of blocks, warps and lanes, where the device lets us choose it.
    """

    shape: PoolShape
    operations: tuple[Operation, ...]
    schedule: int = 0

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return content_id(self.to_dict())

    def __repr__(self) -> str:
        return f"HistoryCase({self.id}, {len(self.operations)} operations)"

    def to_dict(self) -> dict[str, Any]:
        """Return the case as plain JSON values."""
        operations = [[name, given] for name, given in self.operations]
        shape, schedule = asdict(self.shape), self.schedule
        for field in ADDED_SIZES:
            # as histories were written before there were such, so that their ids stay
            if not shape[field]:
                del shape[field]
        return {"schema": HISTORY_SCHEMA, "shape": shape, "operations": operations, "schedule": schedule}


def history_from_dict(data: Any) -> HistoryCase:
    """Read ``HistoryCase.to_dict`` back; raises ``InvalidCase``.

    Schema 3 had streams of tokens 0 and 1 alone, which are still the first, and changed no stream halfway;
    schema 2 had no schedule either.
    """
    if not isinstance(data, dict) or data.get("schema") not in (2, 3, HISTORY_SCHEMA):
        raise InvalidCase("history", data, f"must be a JSON object of schema {HISTORY_SCHEMA}, 3 or 2")
    if data["schema"] == 2 and "schedule" not in data:
        data = {**data, "schedule": 0}
    if data.keys() != {"schema", "shape", "operations", "schedule"}:
        raise InvalidCase("history", sorted(data), "must have schema, shape, operations and schedule")
    shape, names = data["shape"], {field.name for field in fields(PoolShape)}
    if not isinstance(shape, dict) or (ADDED_SIZES | shape).keys() != names:
        raise InvalidCase("history.shape", shape, f"must have the fields {', '.join(sorted(names))}")
    groups = tuple(_group(entry) for entry in _list("history.shape.groups", shape.get("groups", [])))
    added = ADDED if data["schema"] < 4 else None
    entries = _list("history.operations", data["operations"])
    operations = tuple(operation_from_json(entry, added=added) for entry in entries)
    schedule = whole_number("history.schedule", data["schedule"], low=0, high=2**64 - 1)
    pool = PoolShape(**(shape | {"groups": groups}))
    return HistoryCase(shape=pool, operations=operations, schedule=schedule)


def _list(field: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidCase(field, value, "must be a list")
    return list(value)


def _group(entry: Any) -> KvGroup:
    names = {field.name for field in fields(KvGroup)}
    if not isinstance(entry, dict) or entry.keys() != names:
        raise InvalidCase("history.shape.groups", entry, f"must have the fields {', '.join(sorted(names))}")
    return KvGroup(**entry)


def perform(allocator: PageAllocator, operation: Operation) -> Any:
    """Do one operation of a history on an allocator and return what it returns; token streams count not.

    Only operations without a prompt can be done; raises what the allocator raises.
    """
    name, given = operation
    if name == "append_batch":
        return allocator.append_batch(np.asarray(given["sequences"], np.int64), given["tokens"])
    return getattr(allocator, name)(**arguments(operation))


def shortest_history(
    shape: PoolShape,
    operations: Sequence[Operation],
    new: Callable[[PoolShape], PageAllocator],
    *,
    rounds: int,
    wrong: Callable[[PageAllocator], str | None] = violation,
) -> HistoryCase | None:
    """Return a history, as short as can be found, after which an invariant does not hold.

    First the shortest beginning, by halving; then whole sequences are left out, many and then few at once, as
    long as an invariant still breaks.

    Args:
        shape: of the pool.
        operations: after which an invariant is broken.
        new: makes an empty allocator.
        rounds: at most so many histories are run.
        wrong: says what is wrong after a history; ``leftovers_after_ending`` for pages that never come back.

    Returns:
        None when the history does not break anything a second time.
    """
    left = [rounds]

    def broken(tried: Sequence[Operation]) -> bool:
        left[0] -= 1
        return _breaks(shape, tried, new, wrong)

    if not broken(operations):
        return None
    low, high = 0, len(operations)
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if broken(operations[:middle]) else (middle, high)
    kept = list(operations[:high])
    lives = _lives(kept)
    names = sorted({life for each in lives for life in each})
    size = len(names) // 2
    while size and left[0] > 0:
        at = 0
        while at < len(names) and left[0] > 0:
            fewer = names[:at] + names[at + size :]
            if broken(_only(kept, lives, set(fewer))):
                names = fewer
            else:
                at += size
        size //= 2
    found = [_plain(operation) for operation in _only(kept, lives, set(names))]
    return HistoryCase(shape=shape, operations=tuple(found))


def _breaks(
    shape: PoolShape,
    operations: Sequence[Operation],
    new: Callable[[PoolShape], PageAllocator],
    wrong: Callable[[PageAllocator], str | None],
) -> bool:
    allocator = new(shape)
    for operation in operations:
        try:
            perform(allocator, operation)
        except (OutOfPages, InvalidCase):
            continue
        except Exception:
            # a history that makes the allocator fall over breaks it too
            return True
    return wrong(allocator) is not None


def _lives(operations: Sequence[Operation]) -> list[tuple[int, ...]]:
    """For each operation the lives it is about: a sequence from its start to its end has one number."""
    now: dict[int, int] = {}
    count, found = 0, []
    for name, given in operations:
        if name in ("alloc", "fork"):
            born = given["sequence"] if name == "alloc" else given["child"]
            # a start that was refused is no new life, but nothing is lost by giving it a number
            now[born] = count
            count += 1
        named = [given[key] for key in ("sequence", "parent", "child") if key in given]
        named = named or [int(sequence) for sequence in given.get("sequences", ())]
        found.append(tuple(now.get(sequence, -1) for sequence in named))
    return found


def _only(
    operations: Sequence[Operation], lives: Sequence[tuple[int, ...]], wanted: set[int]
) -> list[Operation]:
    """The operations of some lives alone."""
    kept: list[Operation] = []
    for (name, given), about in zip(operations, lives, strict=True):
        if "sequences" not in given:
            if wanted.issuperset(about):
                kept.append((name, given))
            continue
        places = [at for at, life in enumerate(about) if life in wanted]
        if places:
            part: dict[str, Any] = {"sequences": [int(given["sequences"][at]) for at in places]}
            if "tokens" in given:
                counts = given["tokens"]
                part["tokens"] = counts if isinstance(counts, int) else [int(counts[at]) for at in places]
            kept.append((name, part))
    return kept


def _plain(operation: Operation) -> Operation:
    """With a count for each sequence, as histories are written."""
    name, given = operation
    if name == "append_batch" and isinstance(given["tokens"], int):
        return name, {**given, "tokens": [given["tokens"]] * len(given["sequences"])}
    return operation
