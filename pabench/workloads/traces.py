"""Request traces read from a file of the user; the format is told by the content.

CSV under a header, columns in any order: Azure 2023 and 2024, BurstGPT, Vidur's length tables (which have no
times).  One JSON object a line: Mooncake, and Qwen-Bailian, whose ``hash_ids`` say which prompts begin alike.
A JSON list: ShareGPT.  ``trace_rows.py`` lists the columns.  Files are streamed; an error names file, row and
column, where the row is the number of the line in the file, the header included.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from pabench.errors import InvalidCase, UsageError
from pabench.problem.dtypes import Array
from pabench.problem.lengths import LengthFamily, LengthRequest, LengthSpec
from pabench.workloads.row_fields import Row, RowError
from pabench.workloads.sharegpt import sharegpt_rows
from pabench.workloads.trace_rows import TraceFormat, reader_for

MAX_LINE_CHARS = 2**20
"""A longer line is no request; the bound keeps a file without line ends out of memory."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blocks:
    """Which prompts begin alike: request ``i`` begins with the blocks ``ids[indptr[i] : indptr[i + 1]]``.

    Attributes:
        ids: int64; an id stands for its block and all before it.
        indptr: int64 ``(num_requests + 1,)``.
        block_tokens: tokens of a block; the last of a prompt may have fewer.
    """

    ids: Array
    indptr: Array
    block_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests in order of arrival.

    Attributes:
        name: the file's name without its suffix.
        prompt_tokens: int64 ``(num_requests,)``.
        output_tokens: int64 ``(num_requests,)``.
        arrival_s: float64 ``(num_requests,)``, seconds since the first request; never decreases.
        timed: whether the file has times; without, all arrive at 0.
        blocks: what the file says about common beginnings, or None.
    """

    name: str
    prompt_tokens: Array
    output_tokens: Array
    arrival_s: Array
    timed: bool = True
    blocks: Blocks | None = None

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
    prompt, output, stamps, blocks, ends = array("q"), array("q"), array("d"), array("q"), array("q", [0])
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"trace {path}: is not a file")
        with path.open(encoding="utf-8-sig", newline=None) as file:
            form, rows = _rows(file)
            for row in rows:
                prompt.append(row.prompt_tokens)
                output.append(row.output_tokens)
                stamps.append(row.stamp_s)
                if form is not None and form.block_tokens:
                    # ids behind the end of the prompt stand for nothing
                    blocks.extend(row.blocks[: -(-row.prompt_tokens // form.block_tokens)])
                    ends.append(len(blocks))
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
    held = None
    if form is not None and form.block_tokens:
        held = _blocks_in_order(np.asarray(blocks), np.asarray(ends), order, form.block_tokens)
    return Trace(
        name=path.name.partition(".")[0] or path.name,
        prompt_tokens=np.asarray(prompt)[order],
        output_tokens=np.asarray(output)[order],
        arrival_s=arrival[order] - arrival[order[0]],
        timed=form is not None and form.stamp != "",
        blocks=held,
    )


def _blocks_in_order(ids: Array, ends: Array, order: Array, block_tokens: int) -> Blocks:
    counts = np.diff(ends)[order]
    indptr = np.concatenate(([0], np.cumsum(counts)))
    taken = np.repeat(ends[:-1][order] - indptr[:-1], counts) + np.arange(indptr[-1])
    return Blocks(ids=ids[taken], indptr=indptr, block_tokens=block_tokens)


def _rows(file: IO[str]) -> tuple[TraceFormat | None, Iterator[Row]]:
    """The format (None for ShareGPT's list) and the requests of an open file."""
    while (opening := file.read(1)).isspace():
        pass
    if opening == "[":
        return None, sharegpt_rows(file)
    file.seek(0)
    for number, line in _lines(file):
        form, reader, is_header = reader_for(line, number)
        lines = _lines(file, number + 1) if is_header else chain([(number, line)], _lines(file, number + 1))
        return form, (reader.read(text, at) for at, text in lines)
    return None, iter(())


def _lines(file: IO[str], number: int = 1) -> Iterator[tuple[int, str]]:
    """The lines that hold something, each with its number."""
    while line := file.readline(MAX_LINE_CHARS):
        if len(line) == MAX_LINE_CHARS:
            raise RowError(f"row {number}: is longer than {MAX_LINE_CHARS} characters")
        if "\0" in line:
            raise RowError(f"row {number}: holds a NUL byte, so the file is not text")
        if line.strip():
            yield number, line.strip()
        number += 1
