# SPDX-License-Identifier: Apache-2.0
"""Operations of a history as plain data: names and fields, checked when they come from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pabench.errors import InvalidCase
from pabench.judge.allocators.streams import images_of
from pabench.problem.checks import INT32_MAX, whole_number

Operation = tuple[str, dict[str, Any]]
"""A name of ``FIELDS`` and the values of its fields."""

PROMPT = {"stream": "number", "adapter": "text", "salt": "text"}
FIELDS: dict[str, dict[str, str]] = {
    "alloc": {"sequence": "number", "tokens": "number", "final_tokens": "number or null", **PROMPT},
    "append": {"sequence": "number", "tokens": "number"},
    "append_batch": {"sequences": "numbers", "tokens": "numbers"},
    "fork": {"parent": "number", "child": "number", "stream": "number"},
    # what comes after is of another stream where one is named
    "truncate": {"sequence": "number", "length": "number", "stream": "number or null"},
    "free": {"sequences": "numbers"},
    "free_window": {"sequence": "number", "keep_from": "number"},
    # the first tokens of the sequence
    "commit": {"sequence": "number", "tokens": "number"},
    # the hit is kept for adopt; turns: position, stream, position, stream, .. where others go on
    "lookup": {"tokens": "number", "turns": "numbers", **PROMPT},
    # pages: ids put behind those of the hit
    "adopt": {"sequence": "number", "pages": "numbers"},
    "evict": {"pages": "number"},
    "defragment": {},
    "swap_out": {"sequence": "number"},
    "swap_in": {"sequence": "number"},
    # a step is launched; the oldest one has ended
    "begin_step": {},
    "end_step": {},
    # of the pages of the first tokens; the seconds from then on
    "retain": {
        "tokens": "number",
        "turns": "numbers",
        **PROMPT,
        "priority": "number",
        "seconds": "number or null",
    },
    "pass_time": {"seconds": "number"},
    # pages of the tiers: as many as may move, what is to be loaded, and the oldest copy has landed
    "move_down": {"pages": "number"},
    "load": {"tokens": "number", "turns": "numbers", **PROMPT},
    "end_copy": {},
    # the last hit, or with unpin the one that was pinned `place` pins after the oldest that is left
    "pin": {},
    "unpin": {"place": "number"},
    "reset": {},
    # do the last operations again and again, looking at nothing; the pool is empty before and after
    "rounds": {"last": "number", "times": "number"},
    # free everything and take the whole pool once more
    "drain": {},
}

ADDED: dict[str, dict[str, Any]] = {"truncate": {"stream": None}, "lookup": {"turns": []}}
"""Fields that histories before schema 4 do not have, and what they mean by that."""
OPTIONAL = {name: {"images": "numbers"} for name in ("alloc", "lookup", "load", "retain")}
"""Fields that need not be there: position, tokens and image, again and again."""
HIGHEST = 2**53 - 1
"""Of streams, which ``stream_of`` numbers beyond 32 bits; JSON readers keep integers up to here."""
READERS_ONLY = frozenset({"stream", "turns", "adapter", "salt", "images"})
"""Fields that say what tokens are written, of which the allocator is told nothing but in a prompt."""

CONCURRENT_FIELDS: dict[str, dict[str, str]] = {
    # one launch: a request a count, while as many of the pages held longest come back
    "launch": {"counts": "numbers", "frees": "number"},
    # every thread takes up to `most` pages and gives them back, again and again
    "churn": {"threads": "number", "rounds": "number", "most": "number"},
}
"""Operations of many threads on a bare pool."""


def arguments(operation: Operation) -> dict[str, Any]:
    """Return what an allocator is told of an operation that has no prompt."""
    return {field: value for field, value in operation[1].items() if field not in READERS_ONLY}


def operation_from_json(entry: Any, *, added: Mapping[str, dict[str, Any]] | None = None) -> Operation:
    """Read ``[name, {field: value}]``.

    Numbers may be any whole numbers, since refusing them is what is tested.

    Args:
        entry: plain JSON values.
        added: fields that may be missing, by operation, and what they are then.

    Raises:
        InvalidCase: names what is unknown, missing or wrong.
    """
    if not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[0], str):
        raise InvalidCase("operation", entry, "must be a name and its fields")
    name, given = entry
    known = FIELDS | CONCURRENT_FIELDS
    if name not in known:
        raise InvalidCase("operation", name, f"must be one of {', '.join(known)}")
    if added and isinstance(given, dict):
        given = added.get(name, {}) | given
    fields = known[name]
    if isinstance(given, dict):
        fields = fields | {field: kind for field, kind in OPTIONAL.get(name, {}).items() if field in given}
    if not isinstance(given, dict) or given.keys() != fields.keys():
        raise InvalidCase(f"fields of {name}", given, f"must be {', '.join(known[name]) or 'none'}")
    read = {field: _value(f"{name}.{field}", kind, given[field]) for field, kind in fields.items()}
    images_of(read.get("images", ()))
    return name, read


def _value(field: str, kind: str, value: Any) -> Any:
    if kind == "text":
        if not isinstance(value, str):
            raise InvalidCase(field, value, "must be text")
        return value
    if kind == "numbers":
        if not isinstance(value, list | tuple):
            raise InvalidCase(field, value, "must be a list of whole numbers")
        return [whole_number(field, number, low=-INT32_MAX, high=_highest(field)) for number in value]
    if kind == "number or null" and value is None:
        return None
    low = 0 if field.endswith(".stream") else -INT32_MAX
    return whole_number(field, value, low=low, high=_highest(field))


def _highest(field: str) -> int:
    return HIGHEST if field.endswith((".stream", ".turns")) else INT32_MAX
