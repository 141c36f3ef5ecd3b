"""Readers of the formats that have one request a line: which columns they have, and what those mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pabench.workloads.row_fields import (
    Row,
    RowError,
    block_ids,
    checked_row,
    moment_text,
    seconds_text,
    stamp_number,
    token_number,
    token_text,
)


class RowReader(Protocol):
    """Reads the lines of one file."""

    def read(self, line: str, number: int) -> Row:
        """Return the request on ``line``, the ``number``-th of its file; raises ``RowError``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """A format of request traces.

    Attributes:
        name: in words, for the error about an unknown one.
        prompt, output, stamp: names of the columns; no ``stamp`` where the format has no times.
        moment: reads the text of a time (CSV).
        per_second: units of a time in a second (JSON).
        block_tokens: tokens that one of ``hash_ids`` stands for; 0 for a CSV file, which has none.
        mark: a field that only this one of the JSON formats has.
    """

    name: str
    prompt: str
    output: str
    stamp: str = ""
    moment: Callable[[str, int, str], float] = seconds_text
    per_second: float = 1.0
    block_tokens: int = 0
    mark: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a file must have."""
        names = (self.stamp, self.prompt, self.output, "hash_ids" if self.block_tokens else "")
        return tuple(name for name in names if name)


CSV_FORMATS = (
    TraceFormat(
        name="Azure", stamp="TIMESTAMP", prompt="ContextTokens", output="GeneratedTokens", moment=moment_text
    ),
    TraceFormat(name="BurstGPT", stamp="Timestamp", prompt="Request tokens", output="Response tokens"),
    TraceFormat(name="Vidur", prompt="num_prefill_tokens", output="num_decode_tokens"),
)
# looked at in this order: what has no mark takes any object
JSON_FORMATS = (
    TraceFormat(
        name="Qwen-Bailian",
        stamp="timestamp",
        prompt="input_length",
        output="output_length",
        block_tokens=16,
        mark="chat_id",
    ),
    TraceFormat(
        name="Mooncake",
        stamp="timestamp",
        prompt="input_length",
        output="output_length",
        per_second=1000.0,
        block_tokens=512,
    ),
)


class CsvReader:
    """Rows of comma-separated values under a header that names the columns."""

    def __init__(self, form: TraceFormat, header: str, number: int) -> None:
        self.form = form
        self.names = [name.strip() for name in header.split(",")]
        for name in form.columns:
            if self.names.count(name) != 1:
                has = "has no column" if name not in self.names else "names more than once the column"
                raise RowError(f"row {number}: the header {has} {name!r} ({', '.join(self.names)[:80]})")
        self.places = {name: self.names.index(name) for name in form.columns}

    def read(self, line: str, number: int) -> Row:
        """Split the line and check its fields."""
        form, fields = self.form, line.split(",")
        if len(fields) != len(self.names):
            rule = f"has {len(fields)} columns, the header names {len(self.names)}"
            raise RowError(f"row {number}: {rule}: {line[:60]!r}")
        prompt = token_text(fields[self.places[form.prompt]].strip(), number, form.prompt)
        output = token_text(fields[self.places[form.output]].strip(), number, form.output)
        stamp = 0.0
        if form.stamp:
            stamp = form.moment(fields[self.places[form.stamp]].strip(), number, form.stamp)
        return checked_row(Row(prompt, output, stamp), number)


class JsonReader:
    """Rows that are JSON objects."""

    def __init__(self, form: TraceFormat) -> None:
        self.form = form

    def read(self, line: str, number: int) -> Row:
        """Parse the object and check its fields."""
        form = self.form
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "a value too large or deep"
            raise RowError(f"row {number}: is not whole JSON ({reason}): {line[-40:]!r}") from None
        if not isinstance(fields, dict):
            raise RowError(f"row {number}: must be a JSON object: {line[:40]!r}")
        for name in form.columns:
            if name not in fields:
                raise RowError(f"row {number}: has no column {name!r}")
        unit = "milliseconds" if form.per_second == 1000.0 else "seconds"
        return checked_row(
            Row(
                token_number(fields[form.prompt], number, form.prompt),
                token_number(fields[form.output], number, form.output),
                stamp_number(fields[form.stamp], number, form.stamp, unit) / form.per_second,
                block_ids(fields["hash_ids"], number),
            ),
            number,
        )


def reader_for(line: str, number: int) -> tuple[TraceFormat, RowReader, bool]:
    """Return format and reader of a file that begins with ``line``, and whether that line is a header.

    Raises:
        RowError: no format begins like this.
    """
    if line.startswith("{"):
        form = next(form for form in JSON_FORMATS if not form.mark or f'"{form.mark}"' in line)
        return form, JsonReader(form), False
    names = [name.strip() for name in line.split(",")]
    for form in CSV_FORMATS:
        # any one of the names will do, so that a missing column is told rather than an unknown format
        if any(name in names for name in form.columns):
            return form, CsvReader(form, line, number), True
    csv = ", ".join(f"{form.name} ({','.join(form.columns)})" for form in CSV_FORMATS)
    raise RowError(
        f"row {number}: starts neither an Azure CSV nor any other that is known: {csv}; nor JSON lines of "
        f"Mooncake or Qwen-Bailian, nor ShareGPT's JSON list: {line[:40]!r}"
    )
