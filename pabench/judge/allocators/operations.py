"""Operations of a history as plain data: names and fields, checked when they come from a file."""

from __future__ import annotations

from typing import Any

from pabench.errors import InvalidCase
from pabench.problem.checks import INT32_MAX, whole_number

Operation = tuple[str, dict[str, Any]]
"""A name of ``FIELDS`` and the values of its fields."""

PROMPT = {"stream": "number", "adapter": "text", "salt": "text"}
FIELDS: dict[str, dict[str, str]] = {
    "alloc": {"sequence": "number", "tokens": "number", "final_tokens": "number or null", **PROMPT},
    "append": {"sequence": "number", "tokens": "number"},
    "append_batch": {"sequences": "numbers", "tokens": "numbers"},
    "fork": {"parent": "number", "child": "number", "stream": "number"},
    "truncate": {"sequence": "number", "length": "number"},
    "free": {"sequences": "numbers"},
    "free_window": {"sequence": "number", "keep_from": "number"},
    # the first tokens of the sequence
    "commit": {"sequence": "number", "tokens": "number"},
    # the hit is kept for adopt
    "lookup": {"tokens": "number", **PROMPT},
    # pages: ids put behind those of the hit
    "adopt": {"sequence": "number", "pages": "numbers"},
    "evict": {"pages": "number"},
    "swap_out": {"sequence": "number"},
    "swap_in": {"sequence": "number"},
    "reset": {},
    # free everything and take the whole pool once more
    "drain": {},
}

CONCURRENT_FIELDS: dict[str, dict[str, str]] = {
    # one launch: a request a count, while as many of the pages held longest come back
    "launch": {"counts": "numbers", "frees": "number"},
    # every thread takes up to `most` pages and gives them back, again and again
    "churn": {"threads": "number", "rounds": "number", "most": "number"},
}
"""Operations of many threads on a bare pool."""


def operation_from_json(entry: Any) -> Operation:
    """Read ``[name, {field: value}]``.

    Numbers may be any whole numbers, since refusing them is what is tested.

    Raises:
        InvalidCase: names what is unknown, missing or wrong.
    """
    if not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[0], str):
        raise InvalidCase("operation", entry, "must be a name and its fields")
    name, given = entry
    known = FIELDS | CONCURRENT_FIELDS
    if name not in known:
        raise InvalidCase("operation", name, f"must be one of {', '.join(known)}")
    if not isinstance(given, dict) or given.keys() != known[name].keys():
        raise InvalidCase(f"fields of {name}", given, f"must be {', '.join(known[name]) or 'none'}")
    return name, {field: _value(f"{name}.{field}", kind, given[field]) for field, kind in known[name].items()}


def _value(field: str, kind: str, value: Any) -> Any:
    if kind == "text":
        if not isinstance(value, str):
            raise InvalidCase(field, value, "must be text")
        return value
    if kind == "numbers":
        if not isinstance(value, list | tuple):
            raise InvalidCase(field, value, "must be a list of whole numbers")
        return [whole_number(field, number, low=-INT32_MAX) for number in value]
    if kind == "number or null" and value is None:
        return None
    return whole_number(field, value, low=0 if field.endswith(".stream") else -INT32_MAX)
