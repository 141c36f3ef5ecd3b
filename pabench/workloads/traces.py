# SPDX-License-Identifier: Apache-2.0
"""Request traces read from a file of the user; the format is told by the content (``formats.py``).

Files are streamed, plain or compressed; an error names file, row and column, where the row is the number of
the line in the file, the header included.  What a file does not say of itself, the unit of its times or the
tokens of a block, is taken from its format only where nothing in the file speaks against it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pabench.errors import InvalidCase, UsageError
from pabench.problem.dtypes import Array
from pabench.problem.lengths import LengthFamily, LengthRequest, LengthSpec
from pabench.workloads.columns import Columns, joined
from pabench.workloads.csv_source import CsvRows
from pabench.workloads.fields import TraceError
from pabench.workloads.formats import TraceFormat, csv_format, json_format, unknown
from pabench.workloads.json_source import MAX_LINE_CHARS, batches_of_items, batches_of_lines, parsed_line
from pabench.workloads.meaning import FileSays, Meaning, TraceOptions, meaning_of
from pabench.workloads.opened import damage, open_text
from pabench.workloads.structure import Segments, Turns

JSON_OPENING = re.compile(r'[\[{]\s*([\[{"\]}]|$)')


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests in order of arrival.

    Attributes:
        name: the file's name without its suffix.
        prompt_tokens: int64 ``(num_requests,)``.
        output_tokens: int64 ``(num_requests,)``.
        arrival_s: float64 ``(num_requests,)``, seconds since the first request; never decreases.  Of a turn
            that waits for another, the earliest there may be.
        timed: whether the file has times; without, all arrive at 0.
        segments: what the file says about common beginnings, or None.
        turns: which requests wait for others, or None.
        notes: how the file was read where its look allows for more than one way, in words.
    """

    name: str
    prompt_tokens: Array
    output_tokens: Array
    arrival_s: Array
    timed: bool = True
    segments: Segments | None = None
    turns: Turns | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        size = self.prompt_tokens.size
        if not size:
            raise InvalidCase("trace", self.name, "must hold at least one request")
        for field in ("prompt_tokens", "output_tokens", "arrival_s"):
            shape = getattr(self, field).shape
            if shape != (size,):
                raise InvalidCase(f"trace.{field}", shape, f"must have shape ({size},)")

    @property
    def num_requests(self) -> int:
        """Requests in the trace."""
        return int(self.prompt_tokens.size)

    @property
    def total_tokens(self) -> Array:
        """Prompt and output of each request together, int64 ``(num_requests,)``."""
        return np.asarray(self.prompt_tokens + self.output_tokens)

    def length_spec(self) -> LengthSpec:
        """Return a spec that draws total lengths of requests, seeded.

        No request is drawn twice while the batch is at most as large as the trace.
        """
        about = f"total lengths of the {self.num_requests} requests of {self.name}"
        sampler = _TraceSampler(self.total_tokens)
        family = LengthFamily(name=f"trace:{self.name}", about=about, defaults={}, sampler=sampler)
        return LengthSpec(text=family.name, family=family)


class _TraceSampler:
    # a class rather than a closure, so that a spec can be sent to another process
    def __init__(self, total: Array) -> None:
        self.total = total

    def __call__(self, parameters: Mapping[str, float], request: LengthRequest) -> Array:
        again = request.batch > self.total.size
        return np.asarray(request.rng.choice(self.total, request.batch, replace=again))


def read_trace(path: str | Path, options: TraceOptions | None = None) -> Trace:
    """Read a request trace; requests are sorted by arrival.

    Args:
        path: of the file.
        options: what the file does not say of itself.

    Raises:
        UsageError: the file cannot be read, has no known format, holds no request, has a bad row, or means
            what the options do not say; the message names the file, the row and the column, or the option.
        EnvironmentRefused: it is compressed in a way that needs a package.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"trace {path}: is not a file")
        form, found, says = _columns(path)
        if found is None:
            raise UsageError(f"trace {path}: holds no request (it is empty, or has nothing but a header)")
        meaning = meaning_of(found, form, says, TraceOptions() if options is None else options)
    except TraceError as error:
        raise UsageError(f"trace {path}, {error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"trace {path}: is not text (byte {error.object[error.start]:#04x})") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"trace {path}: cannot be read: {reason}") from None
    except Exception as error:
        if not damage(error):
            raise
        raise UsageError(f"trace {path}: cannot be unpacked, it is damaged or cut off: {error}") from None
    return _trace(path, meaning)


def _trace(path: Path, meaning: Meaning) -> Trace:
    if (np.diff(meaning.arrival_s) < 0).any():
        meaning = meaning.ordered(np.argsort(meaning.arrival_s, kind="stable"))
    return Trace(
        name=path.name.partition(".")[0] or path.name,
        prompt_tokens=meaning.prompt,
        output_tokens=meaning.output,
        arrival_s=meaning.arrival_s - meaning.arrival_s[0],
        timed=meaning.timed,
        segments=meaning.segments,
        turns=meaning.turns,
        notes=meaning.notes,
    )


def _columns(path: Path) -> tuple[TraceFormat, Columns | None, FileSays]:
    """The format of a file, its rows (None where it has none), and what it says of itself."""
    form, by_line = _sniff(path)
    if form is None:
        return TraceFormat(name="", fields=()), None, FileSays()
    with open_text(path) as file:
        if form.csv is not None:
            rows = CsvRows(form.csv)
            found = joined(rows.read(file))
            return form, found, FileSays(moments=bool(rows.moments))
        reader = form.reader()
        batches = batches_of_lines(file) if by_line else batches_of_items(file)
        found = joined(reader.read(batch) for batch in batches)
        return form, found, FileSays(block_tokens=getattr(reader, "block_tokens", 0))


def _sniff(path: Path) -> tuple[TraceFormat | None, bool]:
    """The format of a file, None where it is empty, and whether each line of it is an object."""
    with open_text(path) as file:
        number, line = 1, ""
        while not (line := file.readline(MAX_LINE_CHARS)).strip():
            if not line:
                return None, False
            number += len(line) < MAX_LINE_CHARS
    whole, line = line.endswith("\n") or len(line) < MAX_LINE_CHARS, line.strip()
    if "\0" in line:
        raise TraceError(f"row {number}: holds a NUL byte, so the file is not text")
    if line[0] not in "{[":
        if not whole:
            raise TraceError(f"row {number}: is longer than {MAX_LINE_CHARS} characters")
        if (form := csv_format(line)) is None:
            raise unknown(f"row {number}", line)
        return form, False
    if line[0] == "{" and whole:
        try:
            first = parsed_line(line, number)
        except TraceError:
            pass
        else:
            form = _known(first, f"row {number}", line)
            return form, not form.long
    if not JSON_OPENING.match(line):
        raise unknown(f"row {number}", line)
    with open_text(path) as file:
        for batch in batches_of_items(file):
            return _known(batch.values[0], "item 1", str(batch.values[0])), False
    return None, False


def _known(first: dict[str, object], where: str, opening: str) -> TraceFormat:
    if any(isinstance(value, dict) and "input_tokens" in value for value in first.values()):
        raise TraceError(f"{where} is what ServeGen draws requests of a client from, and holds no requests")
    if (form := json_format(first)) is None:
        raise unknown(where, opening)
    return form
