# SPDX-License-Identifier: Apache-2.0
"""Requests of comma-separated values under a header that names the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

from pabench.problem.dtypes import Array
from pabench.workloads.columns import Columns, columns
from pabench.workloads.csv_fast import Decimals, Digits, Fields, Moments, NotPlain, plain_fields
from pabench.workloads.fields import TraceError, fault, moment_text, number_text, token_text
from pabench.workloads.json_source import chunks, held_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvColumns:
    """Names of the columns that are read; others may stand beside them.

    Attributes:
        prompt, output: token counts.
        stamp: time of arrival; empty for none.
        moments: whether a time is a date and time of day, or else a number.
        stamp_may_lack: whether a file without times is one too.
    """

    prompt: str
    output: str
    stamp: str = ""
    moments: bool = False
    stamp_may_lack: bool = False


def header_names(line: str) -> list[str]:
    """Return the names of a header, quoted or not."""
    return [name.strip() for name in next(csv.reader([line]), [])]


class CsvRows:
    """Reads one file.

    Attributes:
        moments: whether its times are dates and times of day; None until the first is seen.
    """

    def __init__(self, form: CsvColumns) -> None:
        self._form, self._stamp_name, self._names = form, form.stamp, list[str]()
        # a column of dates may hold numbers too: seconds, or smaller units, since 1970
        self.moments: bool | None = None if form.moments else False

    def read(self, file: IO[str]) -> Iterator[Columns]:
        """Yield rows in batches; the first line that holds something is the header.

        Raises:
            TraceError: names row and column.
        """
        for number, chunk in chunks(file):
            while not self._names and chunk:
                line, _, chunk = chunk.partition("\n")
                if line.strip():
                    self._read_header(line, number)
                number += 1
            if chunk.strip():
                yield self._read(number, chunk)

    def _read_header(self, header: str, number: int) -> None:
        self._names, form = header_names(header), self._form
        if form.stamp_may_lack and form.stamp not in self._names:
            self._stamp_name = ""
        for name in filter(None, (self._stamp_name, form.prompt, form.output)):
            if self._names.count(name) != 1:
                has = "has no column" if name not in self._names else "names more than once the column"
                raise TraceError(f"row {number}: the header {has} {name!r} ({', '.join(self._names)[:80]})")

    def _read(self, number: int, chunk: str) -> Columns:
        """Read rows at once where every field is plain, and else one by one, which tells what is wrong."""
        if self.moments is None:
            numbers, lines = held_lines(number, chunk)
            self.moments = self._is_moment(lines[0], numbers[0])
        try:
            fields = plain_fields(chunk, len(self._names))
            prompt, output = (
                Digits(fields).read(self._at(name)) for name in (self._form.prompt, self._form.output)
            )
            stamp = None if not self._stamp_name else self._plain_stamps(fields)
            return columns(np.arange(number, number + prompt.size), prompt, output, stamp=stamp)
        except NotPlain:
            return self._one_by_one(*held_lines(number, chunk))

    def _plain_stamps(self, fields: Fields) -> Array:
        at = self._at(self._stamp_name)
        return Moments(fields).read(at) if self.moments else Decimals(fields).read(at)

    def _at(self, name: str) -> int:
        return self._names.index(name)

    def _is_moment(self, line: str, number: int) -> bool:
        text = self._split(line, number)[self._at(self._stamp_name)]
        try:
            float(text)
        except ValueError:
            return True
        return False

    def _split(self, line: str, number: int) -> list[str]:
        try:
            fields = next(csv.reader([line], strict=True)) if '"' in line else line.split(",")
        except csv.Error as error:
            raise TraceError(f"row {number}: is not whole CSV ({error}): {line[:60]!r}") from None
        if len(fields) != len(self._names):
            rule = f"has {len(fields)} columns, the header names {len(self._names)}"
            raise TraceError(f"row {number}: {rule}: {line[:60]!r}")
        return [field.strip() for field in fields]

    def _one_by_one(self, numbers: Sequence[int], lines: Sequence[str]) -> Columns:
        prompts, outputs, stamps = list[int](), list[int](), list[float]()
        form, at = self._form, [self._at(name) for name in (self._form.prompt, self._form.output)]
        for number, line in zip(numbers, lines, strict=True):
            fields, place = self._split(line, number), f"row {number}"
            prompts.append(token_text(fields[at[0]], place, form.prompt))
            outputs.append(token_text(fields[at[1]], place, form.output))
            if self._stamp_name:
                stamps.append(self._stamp(fields[self._at(self._stamp_name)], place))
        tokens = (np.array(counts, np.int64) for counts in (prompts, outputs))
        return columns(numbers, *tokens, stamp=np.array(stamps) if self._stamp_name else None)

    def _stamp(self, text: str, place: str) -> float:
        if self.moments:
            return moment_text(text, place, self._stamp_name)
        try:
            return number_text(text, place, self._stamp_name)
        except TraceError:
            if self._form.moments:
                raise fault(
                    place, self._stamp_name, text, "must be a number, as the times before it"
                ) from None
            raise
