# SPDX-License-Identifier: Apache-2.0
"""Reading a run directory back, with errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabench.errors import UsageError, reason
from pabench.run.record import Record, Status
from pabench.run.replicates import folded
from pabench.run.schema import read_line, validate_run

RUN_FILE = "run.json"
JOURNAL = "journal.jsonl"
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as it lies on the disk.

    Attributes:
        path: the folder.
        record: ``run.json``.
        records: the journal in its order, without a torn last line, and without what an interrupt had cut
            short and a resumed run has asked again; replicates of an item are one, see ``folded``.
        torn: whether the last line was cut short by a kill.
    """

    path: Path
    record: dict[str, Any]
    records: tuple[Record, ...]
    torn: bool

    @property
    def lines(self) -> tuple[dict[str, Any], ...]:
        """The records as flat lines, for tables; see ``Record.flat``."""
        return tuple(record.flat() for record in self.records)

    @property
    def kind(self) -> str:
        """The activity: ``conformance``, ``sweep``, ``serving``, ``stress``, ``model`` or another plug."""
        return str(self.record["kind"])


def read_run(path: Path, *, fold: bool = True) -> Run:
    """Read and validate one run directory; without ``fold`` a record is a line of the journal.

    Raises:
        UsageError: no such folder, no ``run.json``, text that is not JSON, or a field that breaks the schema;
            the message opens with ``file:line``.
    """
    record_path, journal_path = path / RUN_FILE, path / JOURNAL
    try:
        if not path.is_dir():
            raise UsageError(f"{path} is not a folder" if path.exists() else f"{path} does not exist")
        whole = record_path.is_file()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {reason(error)}") from error
    if not whole:
        raise UsageError(f"{path} is not a run directory: it has no {RUN_FILE}")
    record = validate_run(_parse(_bytes(record_path), str(record_path)), str(record_path))
    # killed between making run.json and the journal: a run that has done nothing yet
    content = _bytes(journal_path) if journal_path.exists() else b""
    end, _ = journal_end(content)
    records: list[Record] = []
    for number, raw in enumerate(content[:end].split(b"\n"), start=1):
        if raw.strip():
            where = f"{journal_path}:{number}"
            line = _parse(raw, where, one_line=True)
            records = with_record(records, read_line(line, where, schema=record["schema"]))
    return Run(
        path=path, record=record, records=folded(records) if fold else tuple(records), torn=end < len(content)
    )


def with_record(records: list[Record], record: Record) -> list[Record]:
    """Return ``records`` with one more, and without what an interrupt had left of the same item."""
    cut = (Status.INTERRUPTED, record.kind, record.id)
    if any((one.status, one.kind, one.id) == cut for one in records):
        records = [one for one in records if (one.status, one.kind, one.id) != cut]
    records.append(record)
    return records


def read_runs(paths: Sequence[Path]) -> tuple[Run, ...]:
    """Read several runs, each once however often it is named; their journals side by side are the merge."""
    if not paths:
        raise UsageError("no run given: name at least one run directory")
    unique = {path.resolve(): path for path in reversed(paths)}
    return tuple(read_run(path) for path in paths if unique.pop(path.resolve(), None) is not None)


def journal_end(content: bytes) -> tuple[int, bool]:
    """Return how many bytes of a journal are whole lines, and whether the last of them ends in a newline.

    A last line without its newline counts when it is a JSON object (only the newline is missing), and is the
    torn tail of a killed run when it is not.
    """
    start = content.rfind(b"\n") + 1
    if start == len(content):
        return start, True
    try:
        whole = isinstance(json.loads(content[start:]), dict)
    except (ValueError, RecursionError):
        whole = False
    return (len(content), False) if whole else (start, True)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {reason(error)}") from error


def _deep(value: Any) -> bool:
    """Whether a value is nested so that walking through it could fail."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def _parse(raw: bytes, where: str, *, one_line: bool = False) -> Any:
    try:
        value = json.loads(raw.decode("utf-8"))
        if _deep(value):
            raise RecursionError
        return value
    except json.JSONDecodeError as error:
        place = f"{where}: column {error.colno}" if one_line else f"{where}:{error.lineno}"
        raise UsageError(f"{place}: not JSON: {error.msg.lower()}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}") from None
    except (ValueError, RecursionError) as error:
        text = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{where}: not JSON: {text}") from None
