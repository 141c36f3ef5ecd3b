# SPDX-License-Identifier: Apache-2.0
"""JSON values of a file, a batch at a time: one a line, or the items of a list, or one behind the other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from pabench.workloads.fields import TraceError

CHUNK_CHARS = 2**20
FIRST_CHARS = 2**16
MOST_ITEMS = 1024
MAX_LINE_CHARS = 2**20
"""A longer line is no request; the bound keeps a file without line ends out of memory."""
MAX_ITEM_CHARS = 2**27
"""A longer item is none; the bound keeps a file that never closes a bracket out of memory."""
BETWEEN = '"|"'
BLANKS = re.compile(r"\s*")


class Batch(NamedTuple):
    """Objects of a file.

    Attributes:
        word: what a value is called in errors: a row stands on a line of its own, an item does not.
        numbers: of the line, or of the item from 1 on.
        values: objects.
    """

    word: str
    numbers: list[int]
    values: list[dict[str, Any]]

    @property
    def places(self) -> list[str]:
        """Names of the values in errors."""
        return [f"{self.word} {number}" for number in self.numbers]


def batches_of_lines(file: IO[str]) -> Iterator[Batch]:
    """Yield the objects of JSON lines; raises ``TraceError``."""
    for number, chunk in chunks(file):
        if (held := held_lines(number, chunk))[0]:
            yield Batch("row", held[0], _objects(*held, together=BETWEEN not in chunk))


def chunks(file: IO[str]) -> Iterator[tuple[int, str]]:
    """Yield whole lines, about a megabyte at a time, and the number of the first, from 1 on."""
    number = 1
    while chunk := file.read(CHUNK_CHARS):
        rest = "" if chunk.endswith("\n") else file.readline(MAX_LINE_CHARS)
        whole = chunk + rest
        if "\0" in whole:
            at = number + whole[: whole.index("\0")].count("\n")
            raise TraceError(f"row {at}: holds a NUL byte, so the file is not text")
        if len(rest) == MAX_LINE_CHARS:
            at = number + chunk.count("\n")
            raise TraceError(f"row {at}: is longer than {MAX_LINE_CHARS} characters")
        yield number, whole
        number += whole.count("\n")


def held_lines(number: int, chunk: str) -> tuple[list[int], list[str]]:
    """Return the lines that hold something, without blanks around, and their numbers."""
    lines = [line.strip() for line in chunk.split("\n")]
    numbers = [at for at, line in enumerate(lines, start=number) if line]
    return numbers, [line for line in lines if line]


def _objects(numbers: list[int], lines: list[str], *, together: bool) -> list[dict[str, Any]]:
    """Parse lines at once, which is quicker; one by one where one is wrong, to name it.

    A text that no line holds stands between the lines, so that lines which are whole together only, as
    ``{"a": [1`` and ``2]}``, are seen.
    """
    if together:
        try:
            values = json.loads(f"[{f',{BETWEEN},'.join(lines)}]")
        except (ValueError, RecursionError):
            values = []
        found: list[dict[str, Any]] = values[::2]
        if values[1::2] == ["|"] * (len(lines) - 1) and set(map(type, found)) == {dict}:
            return found
    return [parsed_line(line, number) for number, line in zip(numbers, lines, strict=True)]


def parsed_line(line: str, number: int) -> dict[str, Any]:
    """Return the object on one line; raises ``TraceError``."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "a value too large or deep"
        raise TraceError(f"row {number}: is not whole JSON ({reason}): {line[-40:]!r}") from None
    if not isinstance(value, dict):
        raise TraceError(f"row {number}: must be a JSON object: {line[:40]!r}")
    return value


def batches_of_items(file: IO[str]) -> Iterator[Batch]:
    """Yield the objects of a list, or those that stand one behind the other.

    Raises:
        TraceError: names the item, counted from 1.
    """
    batch, held = Batch("item", [], []), 0
    for number, (item, chars) in enumerate(_items(file), start=1):
        if not isinstance(item, dict):
            raise TraceError(f"item {number}: must be a JSON object: {str(item)[:40]!r}")
        batch.numbers.append(number)
        batch.values.append(item)
        held += chars
        if held >= CHUNK_CHARS or len(batch.values) == MOST_ITEMS:
            yield batch
            batch, held = Batch("item", [], []), 0
    if batch.values:
        yield batch


def _items(file: IO[str]) -> Iterator[tuple[Any, int]]:
    """Items, and the characters that each takes."""
    decoder, buffer, number, ended = json.JSONDecoder(), file.read(FIRST_CHARS), 1, False
    at = _next_at(buffer, 0)
    listed = buffer.startswith("[", at)
    at += listed
    while True:
        at = _next_at(buffer, at)
        if listed and buffer.startswith("]", at):
            return
        if not listed and ended and at == len(buffer):
            return
        try:
            item, end = decoder.raw_decode(buffer, at)
            # a number or a word may go on in the next chunk; the objects that are wanted cannot
            end = _next_at(buffer, end)
            if end == len(buffer) and not ended:
                raise ValueError("what follows is not read yet")
        except (ValueError, RecursionError) as error:
            held, broken = len(buffer) - at, isinstance(error, RecursionError)
            # each time as much again as there is: an item is tried at 1, 2, 4, ... times a chunk, so that one
            # that never ends costs twice its size, not its square
            chunk = "" if broken else file.read(max(FIRST_CHARS, held))
            if (not chunk and ended) or broken or held > MAX_ITEM_CHARS:
                raise TraceError(f"item {number}: is not whole JSON: {buffer[at : at + 40]!r}") from None
            ended, buffer, at = not chunk, buffer[at:] + chunk, 0
            continue
        yield item, end - at
        number, at = number + 1, end
        if listed:
            if buffer.startswith("]", end):
                return
            if not buffer.startswith(",", end):
                found = buffer[end : end + 40]
                raise TraceError(f"item {number}: expected ',' or ']' before it, found {found!r}")
            at = end + 1


def _next_at(text: str, at: int) -> int:
    """Where the next character that is no blank stands, or the end."""
    found = BLANKS.match(text, at)
    return at if found is None else found.end()
