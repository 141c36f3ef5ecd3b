# SPDX-License-Identifier: Apache-2.0
"""Validation of single fields, shared by all specifications."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable
from typing import Any

from pabench.errors import InvalidCase

INT32_MAX = 2**31 - 1


def whole_number(field: str, value: Any, *, low: int, high: int = INT32_MAX) -> int:
    """Return ``value`` as an int in ``[low, high]``; numpy integers count, booleans and floats do not."""
    if isinstance(value, bool):
        raise InvalidCase(field, value, "must be a whole number, not a boolean")
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidCase(field, value, "must be a whole number") from None
    if number < low:
        raise InvalidCase(field, number, f"must be at least {low}")
    if number > high:
        raise InvalidCase(field, number, f"must be at most {high}")
    return number


def finite_number(field: str, value: Any, *, low: float | None = None, high: float | None = None) -> float:
    """Return ``value`` as a finite float within the closed bounds given; booleans and text do not count."""
    if isinstance(value, bool | str | bytes):
        raise InvalidCase(field, value, "must be a number")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidCase(field, value, "must be a number") from None
    if not math.isfinite(number):
        raise InvalidCase(field, value, "must be finite")
    if low is not None and number < low:
        raise InvalidCase(field, value, f"must be at least {low:g}")
    if high is not None and number > high:
        raise InvalidCase(field, value, f"must be at most {high:g}")
    return number


def numbers_tuple(
    field: str, values: Iterable[Any], *, lengths: Collection[int], low: float, high: float
) -> tuple[float, ...]:
    """Return ``values`` as a tuple of finite floats in ``[low, high]``, as many as one of ``lengths``."""
    try:
        items = [] if isinstance(values, str | bytes) else list(values)
    except TypeError:
        raise InvalidCase(field, values, "must be a list of numbers") from None
    if len(items) not in lengths:
        rule = f"must have {' or '.join(map(str, sorted(set(lengths))))} entries"
        raise InvalidCase(field, values, rule)
    return tuple(finite_number(f"{field}[{i}]", item, low=low, high=high) for i, item in enumerate(items))


def lengths_tuple(field: str, values: Iterable[Any], *, low: int = 0) -> tuple[int, ...]:
    """Return ``values`` as a tuple of token counts, each in ``[low, 2**31)``; errors name the position."""
    try:
        items = list(values)
    except TypeError:
        raise InvalidCase(field, values, "must be a list of token counts") from None
    # long lists of plain numbers, as a prompt's tokens, at once
    if set(map(type, items)) == {int} and min(items) >= low and max(items) <= INT32_MAX:
        return tuple(items)
    return tuple(whole_number(f"{field}[{i}]", item, low=low) for i, item in enumerate(items))


def one_of(field: str, value: Any, allowed: Iterable[str]) -> str:
    """Return ``value`` when it is one of ``allowed``."""
    names = tuple(allowed)
    if value not in names:
        raise InvalidCase(field, value, f"must be one of {', '.join(names)}")
    return str(value)
