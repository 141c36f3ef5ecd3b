"""Request traces read from a file of the user: Azure CSV or Mooncake JSONL, told apart by their content.

Azure (2023 and 2024): a header with ``TIMESTAMP,ContextTokens,GeneratedTokens`` in any order, then one
request a line.  Mooncake: one JSON object a line with ``timestamp`` (milliseconds), ``input_length``,
``output_length`` and ``hash_ids``.  Files are streamed; an error names file, row and column, where the row
is the number of the line in the file, the header included.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from pabench.errors import InvalidCase, UsageError
from pabench.problem.dtypes import Array
from pabench.problem.lengths import LengthFamily, LengthRequest, LengthSpec
from pabench.workloads.trace_rows import FORMATS, Row, RowError, RowReader

MAX_LINE_CHARS = 2**20
"""A longer line is no request; the bound keeps a file without line ends out of memory."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests in order of arrival.

    Attributes:
        name: the file's name without its suffix.
        prompt_tokens: int64 ``(num_requests,)``.
        output_tokens: int64 ``(num_requests,)``.
        arrival_s: float64 ``(num_requests,)``, seconds since the first request; never decreases.
    """

    name: str
    prompt_tokens: Array
    output_tokens: Array
    arrival_s: Array

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


def read_trace(path: str | Path) -> Trace:
    """Read a request trace; requests are sorted by arrival.

    Raises:
        UsageError: the file cannot be read, has neither format, holds no request, or has a bad row; the
            message names the file, the row and the column.
    """
    path = Path(path)
    prompt, output, stamps = array("q"), array("q"), array("d")
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"trace {path}: is not a file")
        with path.open(encoding="utf-8-sig", newline=None) as file:
            for row in _rows(file):
                prompt.append(row.prompt_tokens)
                output.append(row.output_tokens)
                stamps.append(row.stamp_s)
    except RowError as error:
        raise UsageError(f"trace {path}, {error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"trace {path}: is not text (byte {error.object[error.start]:#04x})") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"trace {path}: cannot be read: {reason}") from None
    if not stamps:
        raise UsageError(f"trace {path}: holds no request (it is empty, or a header and nothing else)")
    arrival = np.asarray(stamps)
    order = np.argsort(arrival, kind="stable")
    return Trace(
        name=path.name.partition(".")[0] or path.name,
        prompt_tokens=np.asarray(prompt)[order],
        output_tokens=np.asarray(output)[order],
        arrival_s=arrival[order] - arrival[order[0]],
    )


def _rows(file: IO[str]) -> Iterator[Row]:
    reader: RowReader | None = None
    number = 0
    while line := file.readline(MAX_LINE_CHARS):
        number += 1
        if len(line) == MAX_LINE_CHARS:
            raise RowError(f"row {number}: is longer than {MAX_LINE_CHARS} characters")
        if "\0" in line:
            raise RowError(f"row {number}: holds a NUL byte, so the file is not text")
        line = line.strip()
        if not line:
            continue
        if reader is None:
            reader, is_header = _reader_for(line, number)
            if is_header:
                continue
        yield reader.read(line, number)


def _reader_for(line: str, number: int) -> tuple[RowReader, bool]:
    """The reader for a file whose first line is ``line``, and whether that line is a header."""
    for opening, reader, is_header in FORMATS:
        if opening(line):
            return reader(line, number), is_header
    raise RowError(
        f"row {number}: starts neither an Azure CSV (TIMESTAMP,ContextTokens,GeneratedTokens) "
        f"nor a Mooncake JSONL ({{...}}): {line[:40]!r}"
    )
