# SPDX-License-Identifier: Apache-2.0
"""Columns of plain CSV read at once: digits and stamps of one width, nothing quoted, no row short of a field.

Whatever is not as plain raises ``NotPlain``, and the rows are read one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pabench.problem.dtypes import Array
from pabench.problem.lengths import MAX_DIGITS

COMMA, NEWLINE, ZERO, POINT_SIGN = ord(","), ord("\n"), ord("0"), ord(".")
MOMENT = "0000-00-00 00:00:00"
POINT, UTC = len(MOMENT), "+00:00"
WIDEST = 24


class NotPlain(Exception):
    """The rows have to be read one by one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fields:
    """Where the fields of rows stand: that of row i and column j is ``text[begin[i, j] : end[i, j]]``.

    Attributes:
        text: uint8, with room behind the last field.
        begin, end: int64 ``(rows, columns)``.
    """

    text: Array
    begin: Array
    end: Array


def plain_fields(text: str, names: int) -> Fields:
    """Return the fields of lines of ``names`` columns; raises ``NotPlain``."""
    if not text.isascii() or '"' in text:
        raise NotPlain
    text = text if text.endswith("\n") else text + "\n"
    # room behind the end, so that a field can be looked at as wide as the widest
    held = np.frombuffer((text + " " * 64).encode(), np.uint8)
    stops = np.flatnonzero((held == COMMA) | (held == NEWLINE))
    rows = text.count("\n")
    if stops.size != rows * names:
        raise NotPlain
    end = stops.reshape(rows, names)
    # as many commas as there have to be: each row has its own where each last stop ends a line
    if not (held[end[:, -1]] == NEWLINE).all():
        raise NotPlain
    begin = np.concatenate(([0], stops[:-1] + 1)).reshape(rows, names)
    return Fields(text=held, begin=begin, end=end)


@dataclass(frozen=True, slots=True)
class Digits:
    """Reads columns of whole numbers."""

    fields: Fields

    def read(self, column: int) -> Array:
        """Return int64 numbers; raises ``NotPlain``."""
        begin, end = self.fields.begin[:, column], self.fields.end[:, column]
        width = end - begin
        if not 1 <= int(width.min()) <= int(width.max()) <= MAX_DIGITS:
            raise NotPlain
        found = np.zeros(begin.size, np.int64)
        for at in range(int(width.max())):
            there = at < width
            digit = self.fields.text[begin + at].astype(np.int64) - ZERO
            if not (((digit >= 0) & (digit <= 9)) | ~there).all():
                raise NotPlain
            found = np.where(there, found * 10 + digit, found)
        return found


@dataclass(frozen=True, slots=True)
class Decimals:
    """Reads columns of numbers such as ``45.5``, without sign or exponent."""

    fields: Fields

    def read(self, column: int) -> Array:
        """Return float64 numbers; raises ``NotPlain``."""
        begin, end = self.fields.begin[:, column], self.fields.end[:, column]
        width = end - begin
        if not 1 <= int(width.min()) <= int(width.max()) <= WIDEST:
            raise NotPlain
        at = np.arange(int(width.max()))
        there = at < width[:, None]
        text = np.where(there, self.fields.text[begin[:, None] + at], 0).astype(np.uint8)
        digit, point = (text >= ZERO) & (text <= ZERO + 9), text == POINT_SIGN
        if not ((digit | point) == there).all() or int(point.sum(axis=1).max()) > 1 or point[:, 0].any():
            raise NotPlain
        return np.ascontiguousarray(text).view(f"S{at.size}")[:, 0].astype(np.float64)


@dataclass(frozen=True, slots=True)
class Moments:
    """Reads columns of ``2023-11-16 18:17:03.97``, as wide in every row, in UTC with or without its zone."""

    fields: Fields

    def read(self, column: int) -> Array:
        """Return float64 seconds since 1970, to the microsecond; raises ``NotPlain``."""
        begin, end = self.fields.begin[:, column], self.fields.end[:, column]
        width = int(end[0] - begin[0])
        zones = self.fields.text[np.maximum(end[:, None] - len(UTC), 0) + np.arange(len(UTC))]
        if (zones == np.frombuffer(UTC.encode(), np.uint8)).all():
            end, width = end - len(UTC), width - len(UTC)
        if not POINT <= width <= POINT + 10 or not (end - begin == width).all():
            raise NotPlain
        # a row of text a stamp
        stamps = self.fields.text[begin[:, None] + np.arange(width)]
        digits = (stamps >= ZERO) & (stamps <= ZERO + 9)
        shape = (MOMENT + "." + "0" * 9)[:width]
        wanted = np.frombuffer(shape.encode(), np.uint8)
        if not (digits == (wanted == ZERO)).all() or not (stamps == wanted)[:, wanted != ZERO].all():
            raise NotPlain
        # of 32 bits, which are half the work: no part has more than six digits
        found = (stamps - ZERO).astype(np.int32)

        def number(first: int, count: int) -> Array:
            powers = 10 ** np.arange(count, dtype=np.int32)[::-1]
            return np.asarray(found[:, first : first + count] @ powers, np.int64)

        year, month, day = number(0, 4), number(5, 2), number(8, 2)
        hour, minute, second = number(11, 2), number(14, 2), number(17, 2)
        if not ((year >= 1970) & (month >= 1) & (month <= 12) & (day >= 1)).all():
            raise NotPlain
        months = (year - 1970) * 12 + month - 1
        first_day = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
        days = (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) - first_day
        if not ((day <= days) & (hour < 24) & (minute < 60) & (second < 60)).all():
            raise NotPlain
        whole = (first_day + day - 1) * 86_400 + hour * 3600 + minute * 60 + second
        # fractions beyond the microsecond are cut off, as ``datetime`` does
        count = min(max(width - POINT - 1, 0), 6)
        fraction = number(POINT + 1, count) * 10 ** (6 - count) if count else np.zeros(begin.size, np.int64)
        return np.asarray((whole * 10**6 + fraction) / 1e6)
