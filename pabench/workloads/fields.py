# SPDX-License-Identifier: Apache-2.0
"""Fields of the rows of a request trace, each checked; shared by the readers of all formats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pabench.problem.dtypes import Array
from pabench.problem.lengths import MAX_DIGITS, MAX_LENGTH

MISSING: Any = object()
"""In place of a field that a row lacks; ``None`` is a value that JSON can hold."""


class TraceError(Exception):
    """What is wrong with a trace: names row and column, or an option; the caller adds the file."""


def fault(place: str, column: str, value: object, rule: str) -> TraceError:
    """Return the error of a field; ``place`` reads ``row 3``."""
    if value is MISSING:
        return TraceError(f"{place}: has no column {column!r}")
    return TraceError(f"{place}, column {column!r}: {repr(value)[:40]} {rule}")


def token_count(value: Any, place: str, column: str) -> int:
    """Return a token count given as a JSON number; 472.0 is one too."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise fault(place, column, value, "must be a whole number of tokens >= 0")
    if value > MAX_LENGTH:
        raise fault(place, column, value, f"must be at most {MAX_LENGTH} tokens")
    return value


def token_text(text: str, place: str, column: str) -> int:
    """Return a token count written in digits, or as 472.0."""
    whole, point, rest = text.partition(".")
    if point and rest.isascii() and rest.isdigit() and not rest.strip("0"):
        text = whole
    # the bound on the digits comes first, since a number of thousands of digits is refused by int()
    if not text.isascii() or not text.isdigit():
        raise fault(place, column, text, "must be a whole number of tokens >= 0")
    if len(text) > MAX_DIGITS:
        raise fault(place, column, text[:20], f"... must be at most {MAX_LENGTH} tokens")
    return int(text)


def token_column(values: Sequence[Any], places: Sequence[str], column: str) -> Array:
    """Return int64 token counts of a column of JSON values."""
    try:
        if set(map(type, values)) == {int}:
            found = np.array(values, np.int64)
            if int(found.min()) >= 0 and int(found.max()) <= MAX_LENGTH:
                return found
    except OverflowError:
        pass
    return np.array(
        [token_count(value, place, column) for value, place in zip(values, places, strict=True)], np.int64
    )


def number_column(
    values: Sequence[Any], places: Sequence[str], column: str, what: str = "a time, as a number"
) -> Array:
    """Return float64 times of a column of JSON values; NaN where there is none (null, or no such field)."""
    if set(map(type, values)) <= {int, float}:
        try:
            found = np.array(values, np.float64)
            if np.isfinite(found).all() and np.abs(found).max(initial=0.0) < 2**63:
                return found
        except OverflowError:
            pass
    rows = zip(values, places, strict=True)
    return np.array([_number(value, place, column, what) for value, place in rows], np.float64)


def _number(value: Any, place: str, column: str, what: str) -> float:
    if value is None or value is MISSING:
        return math.nan
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63
    if not usable or not math.isfinite(value):
        raise fault(place, column, value, f"must be {what}")
    return float(value)


def number_text(text: str, place: str, column: str) -> float:
    """Return a time written as a number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < 2**63:
        raise fault(place, column, text, "must be a number of seconds")
    return value


def moment_text(text: str, place: str, column: str) -> float:
    """Return the seconds since 1970 of a wall-clock stamp; one without a zone counts as UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise fault(place, column, text, "must be a date and time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    # fractions beyond the microsecond are cut off
    return moment.timestamp()


class BlockIds:
    """Makes int64 numbers of block ids: whole numbers of 64 bits as they are, texts (hex) by order of
    appearance.  Only equality counts."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}
        self._kind: type | None = None
        self._signs = [False, False]  # whether ids below 0, and ids from 2^63 on, were seen

    def column(self, lists: Sequence[Any], places: Sequence[str]) -> tuple[Array, Array]:
        """Return ids one behind the other, int64, and how many each row has, int64.

        Args:
            lists: a list a row; ``None`` or ``MISSING`` where it has none.
            places: names each row in errors.
        """
        flat, counts = list[Any](), np.zeros(len(lists), np.int64)
        for at, ids in enumerate(lists):
            if isinstance(ids, list):
                flat += ids
                counts[at] = len(ids)
            elif ids is not None and ids is not MISSING:
                raise fault(places[at], "hash_ids", ids, "must be a list of block ids")
        kinds = set(map(type, flat))
        if not kinds:
            return np.empty(0, np.int64), counts
        if len(kinds) > 1 or not kinds <= {int, str} or self._kind not in (None, *kinds):
            raise self._misfit(lists, places)
        self._kind = kinds.pop()
        if self._kind is str:
            texts = self._texts
            return np.array([texts.setdefault(name, len(texts)) for name in flat], np.int64), counts
        try:
            found = np.array(flat, np.int64)
        except OverflowError:
            if not -(2**63) <= min(flat) <= max(flat) < 2**64:
                raise self._misfit(lists, places) from None
            found = np.array([name % 2**64 for name in flat], np.uint64).view(np.int64)
            self._signs[1] = True
        self._signs[0] |= min(flat) < 0 if self._signs[1] else int(found.min()) < 0
        if all(self._signs):
            raise self._misfit(lists, places)
        return found, counts

    def _misfit(self, lists: Sequence[Any], places: Sequence[str]) -> TraceError:
        """The error that names the first id of a wrong kind."""
        rule = "must be a whole number of 64 bits, or a text of hex digits, and all of one kind in a file"
        kinds = (int, str) if self._kind is None else (self._kind,)
        for ids, place in zip(lists, places, strict=True):
            for name in ids if isinstance(ids, list) else ():
                if type(name) not in kinds or (type(name) is int and not -(2**63) <= name < 2**64):
                    return fault(place, "hash_ids", name, rule)
                kinds = (type(name),)
        return TraceError(f"{places[0]}, column 'hash_ids': {rule}: some are below 0, some at least 2^63")
