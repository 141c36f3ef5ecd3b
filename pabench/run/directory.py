# SPDX-License-Identifier: Apache-2.0
"""Run directories: ``run.json``, ``journal.jsonl``, ``failures/``, ``report.html``.

The journal only grows, one line a finished item, and each line is on the disk before ``append`` returns: what
a kill can lose is the item in work.  Resume is "what the journal lacks", merge is concatenation.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from pabench.errors import EXIT_ENVIRONMENT, EnvironmentRefused, UsageError, reason
from pabench.run.files import atomic_write_bytes, atomic_write_text, json_line, plain, pretty
from pabench.run.provenance import collect
from pabench.run.read import JOURNAL, RUN_FILE, Run, journal_end, read_run, read_runs, with_record
from pabench.run.record import Record
from pabench.run.schema import SCHEMA, read_line, validate_run

__all__ = ["Run", "RunDirectory", "check_new", "holds_nothing", "read_run", "read_runs"]

REPORT_FILE = "report.html"
UNFINISHED = f".{RUN_FILE}."
"""How the temporary names of ``run.json`` begin."""


def check_new(path: Path) -> None:
    """Refuse ``path`` as a new run directory unless it is absent or empty, and could be written.

    Writes nothing, so that a command can ask before any work.

    Raises:
        UsageError: a file, a folder with something in it, or a name that no file system takes.
        EnvironmentRefused: the folder, or its nearest existing parent, cannot be read or written.
    """
    try:
        if path.is_dir():
            if not holds_nothing(path):
                hint = "choose another folder, or resume the run in it"
                raise UsageError(f"{path} is not empty: a run starts in a new or empty folder", hint=hint)
            nearest = path
        elif path.exists() or path.is_symlink():
            raise UsageError(f"{path} is not a folder")
        else:
            nearest = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        refusal = UsageError if error.errno == errno.ENAMETOOLONG else EnvironmentRefused
        raise refusal(f"cannot use {path}: {reason(error)}") from error
    if not nearest.is_dir():
        raise EnvironmentRefused(f"cannot create {path}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise EnvironmentRefused(f"cannot create {path}: {nearest} is not writable")


def holds_nothing(path: Path) -> bool:
    """Return whether a folder is empty, or has what a run leaves that is killed before its ``run.json``."""
    return all(
        entry.name.startswith(UNFINISHED) or (entry.name == JOURNAL and not entry.stat().st_size)
        for entry in path.iterdir()
    )


class RunDirectory:
    """A run being written.  ``create`` starts one, ``open`` resumes one; a context manager that closes it.

    Attributes:
        path: the folder.
        run: ``run.json`` as last written.
        records: records that were there at ``open`` (none after ``create``) and those appended since.
    """

    def __init__(self, path: Path, run: dict[str, Any], records: list[Record], journal: BinaryIO) -> None:
        self.path = path
        self.run = run
        self._records = records
        self._journal = journal
        # what the file must hold at any time: whoever else writes to it is found out
        self._written = bytearray()

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        kind: str,
        command: str,
        config: Mapping[str, Any],
        provenance: Mapping[str, Any] | None = None,
    ) -> RunDirectory:
        """Make the folder, write ``run.json`` with status ``running`` and an empty journal.

        Args:
            path: absent or empty folder, see ``check_new``.
            kind: ``sweep`` or ``conformance``.
            command: the command line as a user would type it.
            config: resolved options, JSON values.
            provenance: ``provenance.collect()``, which is called when this is None.
        """
        check_new(path)
        run = {
            "schema": SCHEMA,
            "kind": kind,
            "status": "running",
            "exit_code": None,
            "command": command,
            "started": _now(),
            "finished": None,
            "provenance": plain(dict(collect() if provenance is None else provenance)),
            "config": plain(dict(config)),
        }
        validate_run(run, RUN_FILE)
        try:
            path.mkdir(parents=True, exist_ok=True)
            journal = _locked(path)
        except OSError as error:
            raise EnvironmentRefused(f"cannot write {path}: {reason(error)}") from error
        directory = cls(path, run, [], journal)
        for left in path.glob(f"{UNFINISHED}*"):
            left.unlink(missing_ok=True)
        directory._save()
        return directory

    @classmethod
    def open(cls, path: Path, *, kind: str) -> RunDirectory:
        """Open a run to go on with it; a line that a kill cut short is removed from the journal.

        Raises:
            UsageError: not a run directory, of another kind, or damaged elsewhere than at its end.
            EnvironmentRefused: it cannot be written, or another process is writing it.
        """
        found = read_run(path, fold=False)
        if found.kind != kind:
            raise UsageError(f"{path} holds a {found.kind} run, not a {kind} run")
        if found.record["schema"] != SCHEMA:
            old = f"{path} was written with schema {found.record['schema']}, this version writes {SCHEMA}"
            raise UsageError(f"{old}: it can be reported, not resumed", hint="start a new run")
        try:
            journal = _locked(path)
            # read again: another process may have finished a line between the first look and the lock
            found = read_run(path, fold=False)
            content = (path / JOURNAL).read_bytes()
            end, complete = journal_end(content)
            journal.truncate(end)
            if not complete:
                journal.write(b"\n")
                journal.flush()
                os.fsync(journal.fileno())
        except OSError as error:
            raise EnvironmentRefused(f"cannot write {path}: {reason(error)}") from error
        run = {**found.record, "status": "running", "exit_code": None, "finished": None}
        directory = cls(path, run, list(found.records), journal)
        directory._written += content[:end] + (b"" if complete else b"\n")
        directory._save()
        return directory

    def append(self, record: Record) -> None:
        """Add one finished item to the journal; it is on the disk when this returns."""
        data = plain(record.to_line())
        # what is written is what will be read: numbers and texts as JSON has them
        record = read_line(data, JOURNAL)
        raw = json_line(data).encode() + b"\n"
        try:
            self._journal.write(raw)
            self._journal.flush()
            os.fsync(self._journal.fileno())
        except OSError as error:
            raise EnvironmentRefused(f"cannot write {self.path / JOURNAL}: {reason(error)}") from error
        self._written += raw
        self._records = with_record(self._records, record)

    def note(self, **facts: Any) -> None:
        """Add facts that became known on the way to ``run.json``."""
        self.run = {**self.run, **plain(facts)}
        self._save()

    @property
    def records(self) -> tuple[Record, ...]:
        """Records that were there at ``open`` and those appended since, one a line of the journal."""
        return tuple(self._records)

    @property
    def device(self) -> str:
        """Name of the device that the run was made on; empty where it needs none."""
        return str((self.run["provenance"].get("device") or {}).get("name") or "")

    def finish(self, *, status: str, exit_code: int) -> None:
        """Record how the run ended (``finished`` or ``interrupted``) and close the journal.

        Raises:
            EnvironmentRefused: something else wrote to the journal: its lines are written again, and the run
                is ``interrupted``; or ``run.json`` cannot be written.
        """
        damage = self._damage()
        if damage is not None:
            status, exit_code = "interrupted", EXIT_ENVIRONMENT
            atomic_write_bytes(self.path / JOURNAL, bytes(self._written))
        self.run = {**self.run, "status": status, "exit_code": exit_code, "finished": _now()}
        validate_run(self.run, RUN_FILE)
        self._save()
        self.close()
        if damage is not None:
            what = f"{self.path / JOURNAL} {damage}: something else wrote to it while the run went on"
            raise EnvironmentRefused(f"{what}; its {self._num_lines} lines are written again")

    def close(self) -> None:
        """Close the journal; the run stays ``running`` on disk unless ``finish`` was called."""
        # a line that a full disk did not take is tried again here, and ``append`` has told of it
        with contextlib.suppress(OSError):
            self._journal.close()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _damage(self) -> str | None:
        """What is wrong with the journal on disk, or None."""
        try:
            content = (self.path / JOURNAL).read_bytes()
        except OSError as error:
            return f"cannot be read ({reason(error)})"
        if content == self._written:
            return None
        count = content.count(b"\n")
        same = count == self._num_lines
        return "holds other lines than the run wrote" if same else f"holds {count} of {self._num_lines} lines"

    @property
    def _num_lines(self) -> int:
        return self._written.count(b"\n")

    def _save(self) -> None:
        atomic_write_text(self.path / RUN_FILE, pretty(self.run))


def _locked(path: Path) -> BinaryIO:
    # append mode: a line goes to the end whatever else happened to the file
    journal = (path / JOURNAL).open("ab")
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        journal.close()
        raise EnvironmentRefused(f"{path} is being written by another process") from None
    except OSError:
        # a file system without locks: going on alone is better than not at all
        pass
    return journal


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
