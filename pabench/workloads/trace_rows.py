"""One row of a request trace, in either format, checked field by field."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from pabench.problem.lengths import MAX_LENGTH

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOONCAKE_COLUMNS = ("timestamp", "input_length", "output_length", "hash_ids")


class RowError(Exception):
    """A row that breaks the format; the message names row and column, the caller adds the file."""


class Row(NamedTuple):
    """One request; ``stamp_s`` counts seconds from any fixed moment."""

    prompt_tokens: int
    output_tokens: int
    stamp_s: float


class RowReader(Protocol):
    """Reads the lines of one file."""

    def read(self, line: str, number: int) -> Row:
        """Return the request on ``line``, the ``number``-th of its file; raises ``RowError``."""


class AzureReader:
    """Rows of comma-separated values under a header that names the columns."""

    def __init__(self, header: str, number: int) -> None:
        self.columns = [name.strip() for name in header.split(",")]
        for name in AZURE_COLUMNS:
            if self.columns.count(name) != 1:
                has = "has no column" if name not in self.columns else "names more than once the column"
                raise RowError(f"row {number}: the header {has} {name!r} ({', '.join(self.columns)[:80]})")
        self.places = [self.columns.index(name) for name in AZURE_COLUMNS]

    def read(self, line: str, number: int) -> Row:
        """Split the line and check its three fields."""
        fields = line.split(",")
        if len(fields) != len(self.columns):
            rule = f"has {len(fields)} columns, the header names {len(self.columns)}"
            raise RowError(f"row {number}: {rule}: {line[:60]!r}")
        stamp, prompt, output = (fields[place].strip() for place in self.places)
        return _row(
            _digits(prompt, number, "ContextTokens"),
            _digits(output, number, "GeneratedTokens"),
            _moment(stamp, number),
            number,
        )


class MooncakeReader:
    """Rows that are JSON objects."""

    def __init__(self, line: str, number: int) -> None:
        pass

    def read(self, line: str, number: int) -> Row:
        """Parse the object and check its four fields."""
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "a value too large or deep"
            raise RowError(f"row {number}: is not whole JSON ({reason}): {line[-40:]!r}") from None
        if not isinstance(fields, dict):
            raise RowError(f"row {number}: must be a JSON object: {line[:40]!r}")
        for name in MOONCAKE_COLUMNS:
            if name not in fields:
                raise RowError(f"row {number}: has no column {name!r}")
        if not isinstance(fields["hash_ids"], list):
            raise RowError(f"row {number}, column 'hash_ids': must be a list of block ids")
        return _row(
            _tokens(fields["input_length"], number, "input_length"),
            _tokens(fields["output_length"], number, "output_length"),
            _milliseconds(fields["timestamp"], number) / 1000.0,
            number,
        )


def _starts_azure(line: str) -> bool:
    # any one of the names will do, so that a missing column is told rather than an unknown format
    return not line.startswith("{") and any(name in line.split(",") for name in AZURE_COLUMNS)


def _starts_mooncake(line: str) -> bool:
    return line.startswith("{")


FORMATS: tuple[tuple[Callable[[str], bool], Callable[[str, int], RowReader], bool], ...] = (
    (_starts_azure, AzureReader, True),
    (_starts_mooncake, MooncakeReader, False),
)
"""Test of a file's first line, reader, and whether that line is a header."""


def _row(prompt: int, output: int, stamp_s: float, number: int) -> Row:
    if prompt + output > MAX_LENGTH:
        raise RowError(f"row {number}: has {prompt} + {output} tokens, more than the {MAX_LENGTH} allowed")
    return Row(prompt, output, stamp_s)


def _digits(text: str, number: int, column: str) -> int:
    # the bound on the digits comes first, since a number of thousands of digits is refused by int()
    if not text.isascii() or not text.isdigit():
        raise RowError(
            f"row {number}, column {column!r}: {text[:40]!r} must be a whole number of tokens >= 0"
        )
    if len(text) > 18:
        raise RowError(
            f"row {number}, column {column!r}: {text[:20]!r}... must be at most {MAX_LENGTH} tokens"
        )
    return int(text)


def _tokens(value: Any, number: int, column: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        shown = repr(value)[:40]
        raise RowError(f"row {number}, column {column!r}: {shown} must be a whole number of tokens >= 0")
    return value


def _milliseconds(value: Any, number: int) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63
    if not usable or not math.isfinite(value):
        shown = repr(value)[:40]
        raise RowError(f"row {number}, column 'timestamp': {shown} must be a number of milliseconds")
    return float(value)


def _moment(text: str, number: int) -> float:
    """Seconds since 1970 of a wall-clock stamp; one without a zone counts as UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RowError(f"row {number}, column 'TIMESTAMP': {text[:40]!r} must be a date and time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    # fractions beyond the microsecond are cut off
    return moment.timestamp()
