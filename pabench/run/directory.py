"""Run directories: ``run.json``, ``journal.jsonl``, ``failures/<case id>/``, ``report.html``.

The journal only grows, one line a finished item, and each line is on the disk before ``append`` returns: what
a kill can lose is the item in work.  Resume is "what the journal lacks", merge is concatenation.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from pabench.errors import EnvironmentRefused, InvalidCase, UsageError
from pabench.run.files import atomic_write_text, json_line, plain, pretty, reason
from pabench.run.provenance import collect
from pabench.run.read import JOURNAL, RUN_FILE, Run, journal_end, read_run, read_runs
from pabench.run.schema import SCHEMA, validate_line, validate_run

__all__ = ["Run", "RunDirectory", "check_new", "read_run", "read_runs"]

REPORT_FILE = "report.html"
FAILURES = "failures"


def check_new(path: Path) -> None:
    """Refuse ``path`` as a new run directory unless it is absent or empty, and could be written.

    Writes nothing, so that a command can ask before any work.

    Raises:
        UsageError: a file, or a folder with something in it.
        EnvironmentRefused: the folder, or its nearest existing parent, cannot be read or written.
    """
    try:
        if path.is_dir():
            if any(path.iterdir()):
                hint = "choose another folder, or resume the run in it"
                raise UsageError(f"{path} is not empty: a run starts in a new or empty folder", hint=hint)
            nearest = path
        elif path.exists() or path.is_symlink():
            raise UsageError(f"{path} is not a folder")
        else:
            nearest = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        raise EnvironmentRefused(f"cannot use {path}: {reason(error)}") from error
    if not nearest.is_dir():
        raise EnvironmentRefused(f"cannot create {path}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise EnvironmentRefused(f"cannot create {path}: {nearest} is not writable")


class RunDirectory:
    """A run being written.  ``create`` starts one, ``open`` resumes one; a context manager that closes it.

    Attributes:
        path: the folder.
        run: ``run.json`` as last written.
        done: journal lines that were there at ``open`` (none after ``create``) and those appended since.
    """

    def __init__(
        self, path: Path, run: dict[str, Any], lines: list[dict[str, Any]], journal: BinaryIO
    ) -> None:
        self.path = path
        self.run = run
        self.done = lines
        self._journal = journal

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
        directory._save()
        return directory

    @classmethod
    def open(cls, path: Path, *, kind: str) -> RunDirectory:
        """Open a run to go on with it; a line that a kill cut short is removed from the journal.

        Raises:
            UsageError: not a run directory, of another kind, or damaged elsewhere than at its end.
            EnvironmentRefused: it cannot be written, or another process is writing it.
        """
        found = read_run(path)
        if found.kind != kind:
            raise UsageError(f"{path} holds a {found.kind} run, not a {kind} run")
        try:
            journal = _locked(path)
            # read again: another process may have finished a line between the first look and the lock
            found = read_run(path)
            end, complete = journal_end((path / JOURNAL).read_bytes())
            journal.truncate(end)
            if not complete:
                journal.write(b"\n")
                journal.flush()
                os.fsync(journal.fileno())
        except OSError as error:
            raise EnvironmentRefused(f"cannot write {path}: {reason(error)}") from error
        run = {**found.record, "status": "running", "exit_code": None, "finished": None}
        directory = cls(path, run, list(found.lines), journal)
        directory._save()
        return directory

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one finished item to the journal; it is on the disk when this returns."""
        data = plain(dict(line))
        validate_line(data, JOURNAL)
        try:
            self._journal.write(json_line(data).encode() + b"\n")
            self._journal.flush()
            os.fsync(self._journal.fileno())
        except OSError as error:
            raise EnvironmentRefused(f"cannot write {self.path / JOURNAL}: {reason(error)}") from error
        self.done.append(data)

    def note(self, **facts: Any) -> None:
        """Add facts that became known on the way to ``run.json``."""
        self.run = {**self.run, **plain(facts)}
        self._save()

    def done_ids(self) -> set[str]:
        """Return the ids of the items the journal has."""
        return {str(line["id"]) for line in self.done}

    def failure_dir(self, case_id: str) -> Path:
        """Make and return ``failures/<case id>/``."""
        if not case_id or not all(c.isalnum() or c in "-_" for c in case_id):
            raise InvalidCase("case_id", case_id, "must be letters, digits, - and _")
        folder = self.path / FAILURES / case_id
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentRefused(f"cannot write {folder}: {reason(error)}") from error
        return folder

    def finish(self, *, status: str, exit_code: int) -> None:
        """Record how the run ended (``finished`` or ``interrupted``) and close the journal."""
        self.run = {**self.run, "status": status, "exit_code": exit_code, "finished": _now()}
        validate_run(self.run, RUN_FILE)
        self._save()
        self.close()

    def close(self) -> None:
        """Close the journal; the run stays ``running`` on disk unless ``finish`` was called."""
        self._journal.close()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
