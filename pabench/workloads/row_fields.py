"""Fields of one row of a request trace, each checked; shared by the readers of all formats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pabench.problem.lengths import MAX_LENGTH


class RowError(Exception):
    """A row that breaks the format; the message names row and column, the caller adds the file."""


class Row(NamedTuple):
    """One request.

    Attributes:
        prompt_tokens: tokens of the prompt.
        output_tokens: tokens that were made.
        stamp_s: seconds from any fixed moment; 0 in formats without times.
        blocks: ids of the blocks of the prompt; equal ids stand for equal beginnings.
    """

    prompt_tokens: int
    output_tokens: int
    stamp_s: float
    blocks: Sequence[int] = ()


def checked_row(row: Row, number: int) -> Row:
    """Return ``row`` unless prompt and output together are too long."""
    if row.prompt_tokens + row.output_tokens > MAX_LENGTH:
        has = f"has {row.prompt_tokens} + {row.output_tokens} tokens"
        raise RowError(f"row {number}: {has}, more than the {MAX_LENGTH} allowed")
    return row


def token_text(text: str, number: int, column: str) -> int:
    """Return a token count written in digits."""
    # the bound on the digits comes first, since a number of thousands of digits is refused by int()
    if not text.isascii() or not text.isdigit():
        rule = "must be a whole number of tokens >= 0"
        raise RowError(f"row {number}, column {column!r}: {text[:40]!r} {rule}")
    if len(text) > 18:
        rule = f"must be at most {MAX_LENGTH} tokens"
        raise RowError(f"row {number}, column {column!r}: {text[:20]!r}... {rule}")
    return int(text)


def token_number(value: Any, number: int, column: str) -> int:
    """Return a token count given as a JSON number."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        shown = repr(value)[:40]
        raise RowError(f"row {number}, column {column!r}: {shown} must be a whole number of tokens >= 0")
    return value


def block_ids(value: Any, number: int) -> list[int]:
    """Return the ids of a prompt's blocks."""
    if not isinstance(value, list):
        raise RowError(f"row {number}, column 'hash_ids': must be a list of block ids")
    for block in value:
        if isinstance(block, bool) or not isinstance(block, int) or not 0 <= block < 2**63:
            shown = repr(block)[:40]
            raise RowError(f"row {number}, column 'hash_ids': {shown} must be a whole number from 0 to 2^63")
    return value


def stamp_number(value: Any, number: int, column: str, unit: str) -> float:
    """Return a time given as a JSON number, in its own unit."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63
    if not usable or not math.isfinite(value):
        shown = repr(value)[:40]
        raise RowError(f"row {number}, column {column!r}: {shown} must be a number of {unit}")
    return float(value)


def seconds_text(text: str, number: int, column: str) -> float:
    """Return a time written as a number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < 2**63:
        raise RowError(f"row {number}, column {column!r}: {text[:40]!r} must be a number of seconds")
    return value


def moment_text(text: str, number: int, column: str) -> float:
    """Return the seconds since 1970 of a wall-clock stamp; one without a zone counts as UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RowError(f"row {number}, column {column!r}: {text[:40]!r} must be a date and time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    # fractions beyond the microsecond are cut off
    return moment.timestamp()
