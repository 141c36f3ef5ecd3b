# SPDX-License-Identifier: Apache-2.0
"""Rules for the values of ``run.json`` and of journal lines: each is how a message says it, and what holds.

Whatever reads a journal relies on them: a report never meets a value that its line's rules do not allow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from pabench.errors import UsageError
from pabench.text import shown

Rule = tuple[str, Callable[[Any], bool]]

PROVENANCE_WORDS = ("measured", "counted", "modelled", "host")
NON_FINITE = ("inf", "-inf", "nan")
LARGEST = 2**63 - 1


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= LARGEST


def _number(value: Any) -> bool:
    return value in NON_FINITE if isinstance(value, str) else _finite(value)


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _whole(-LARGEST)(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return whether a value is a list of what ``holds``."""
    return lambda value: isinstance(value, list) and all(map(holds, value))


def object_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return whether a value is an object all values of which ``holds``."""
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def has(**fields: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return whether a value is an object that has at least these fields, each as it must be."""
    return lambda value: (
        isinstance(value, dict)
        and all(name in value and holds(value[name]) for name, holds in fields.items())
    )


def _or_null(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


def words(names: tuple[str, ...]) -> Rule:
    """Return the rule for one of some words."""
    return f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names


NAME: Rule = ("a non-empty text", lambda v: isinstance(v, str) and v != "")
TEXT: Rule = ("a text", _text)
FLAG: Rule = ("true or false", lambda v: isinstance(v, bool))
COUNT: Rule = ("a whole number from 0 to 2^63 - 1", _whole(0))
POSITIVE: Rule = ("a whole number from 1 to 2^63 - 1", _whole(1))
CODE: Rule = ("a whole number", _whole(-LARGEST))
NUMBER: Rule = ("a number", _number)
LIST: Rule = ("a list", lambda v: isinstance(v, list))
OBJECT: Rule = ("an object", lambda v: isinstance(v, dict))
TEXTS: Rule = ("a list of texts", list_of(_text))
SAMPLES: Rule = ("a list of numbers", list_of(_finite))
WORDS: Rule = (
    f"an object of figure to one of {', '.join(PROVENANCE_WORDS)}",
    object_of(lambda word: word in PROVENANCE_WORDS),
)
WHEN: Rule = (
    "an ISO 8601 time",
    lambda v: isinstance(v, str) and re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d", v) is not None,
)
EXACT: Rule = ("an object of texts", object_of(_text))
FIGURES: Rule = ("an object of numbers", object_of(_or_null(_number)))
VALUE: Rule = (
    "a number, a text, a list of numbers, or null",
    _or_null(
        lambda value: (
            list_of(_or_null(_number))(value) if isinstance(value, list) else _text(value) or _number(value)
        )
    ),
)
COUNTS: Rule = ("an object of whole numbers", object_of(_whole(0)))
CURVES: Rule = ("an object of lists of numbers", object_of(list_of(_finite)))


def _series(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    clock = value.get("clock_s")
    drawn = [value[name] for name in ("running", "used_share") if value.get(name) is not None]
    if clock is None:
        return not drawn
    means = has(mean=list_of(_finite))
    return list_of(_finite)(clock) and all(means(one) and len(one["mean"]) == len(clock) for one in drawn)


SERIES: Rule = ("clock_s, and means over it of running and used_share, as lists of numbers", _series)
KERNEL: Rule = (
    "an object of launches, sequences and max_ratio",
    has(launches=_whole(0), sequences=_whole(0), max_ratio=_or_null(_number)),
)
PAGE_MODEL: Rule = (
    "an object of best, low, high, mean_tokens, and pairs of numbers as curve",
    has(
        **dict.fromkeys(("best", "low", "high", "mean_tokens"), _finite),
        curve=list_of(lambda pair: list_of(_finite)(pair) and len(pair) == 2),
    ),
)
PRIORITIES: Rule = (
    "a list of objects of priority, requests, served, preemptions, ttft_s_p50 and ttft_s_p99",
    list_of(
        has(
            **dict.fromkeys(("priority", "requests", "served", "preemptions"), _whole(0)),
            **dict.fromkeys(("ttft_s_p50", "ttft_s_p99"), _or_null(_finite)),
        )
    ),
)
RATIOS: Rule = ("a list of numbers", list_of(_or_null(_number)))
PROMPTS: Rule = ("a list of objects of text and tokens", list_of(has(text=_text, tokens=_whole(0))))
PER_TOKEN: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("token", "dense"), list_of(_whole(0))),
    **dict.fromkeys(("margin", "error", "noise"), list_of(_number)),
}


def _answer(value: Any) -> bool:
    known = lambda one: True  # noqa: E731
    if not has(text=_text, prompt=known, answer=known, **PER_TOKEN)(value):
        return False
    count, parted = len(value["token"]), value.get("parted")
    same = all(len(value[name]) == count for name in PER_TOKEN)
    return same and (parted is None or (_whole(0)(parted) and parted < count))


ANSWERS: Rule = (
    f"a list of objects of text, prompt, answer, and lists of one length as {', '.join(PER_TOKEN)}",
    list_of(_answer),
)
_move = list_of(_whole(-LARGEST))
STEPS: Rule = (
    "a list of objects of step, tables, preempted and copied",
    list_of(
        has(
            step=_whole(0),
            tables=object_of(_move),
            preempted=lambda one: True,
            copied=list_of(has(why=_text, pages=list_of(lambda move: _move(move) and len(move) == 3))),
        )
    ),
)


def check_fields(
    data: Mapping[str, Any],
    required: Mapping[str, Rule],
    optional: Mapping[str, Rule],
    where: str,
    *,
    prefix: str = "",
) -> None:
    """Hold an object to rules.

    Args:
        data: the object.
        required: fields that must be there.
        optional: fields that may be missing or null.
        where: opens the message of the error.
        prefix: stands before the names of the fields.

    Raises:
        UsageError: the first field that breaks its rule.
    """
    for name, (rule, holds) in required.items():
        if name not in data:
            raise UsageError(f"{where}: field {prefix}{name} is missing")
        if not holds(data[name]):
            raise UsageError(f"{where}: {prefix}{name} = {shown(data[name])}: must be {rule}")
    for name, (rule, holds) in optional.items():
        if data.get(name) is not None and not holds(data[name]):
            raise UsageError(f"{where}: {prefix}{name} = {shown(data[name])}: must be {rule} or null")
