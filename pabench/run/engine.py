# SPDX-License-Identifier: Apache-2.0
"""Runs the items of an activity: workers, deadlines, crashes, resume, budget, signals, journal, failures.

Each shard is a thread that supervises one worker process and takes the next item that nobody has.  Records
are written in the order of the items, whichever ended first, so that a run reads the same however many
shards it had.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from pabench.errors import PabenchError
from pabench.progress import Progress, make_progress
from pabench.run.directory import RunDirectory
from pabench.run.failures import save_failure
from pabench.run.fleet import Fleet, FleetShard
from pabench.run.plug import Activity, Answer, Facts, Item
from pabench.run.record import Record, Status, broken, exit_code
from pabench.run.shards import Halted, LocalShard, Shard, WorkerShard
from pabench.run.signals import no_stop, stop_signals

WAKE_S = 0.2
"""How often the main thread looks for a signal while shards work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a run ended.

    Attributes:
        records: of all items that are there, those of earlier runs of a resumed one included, in the order of
            the items.
        interrupted: it was stopped from outside.
        not_run: items that did not begin.
        why_not: the budget was spent, or enough had failed; empty where all began.
        exit_code: of the command line.
    """

    records: tuple[Record, ...]
    interrupted: bool
    not_run: int
    exit_code: int
    why_not: str = ""


class Engine:
    """Runs one activity; a context manager that leaves no process behind.

    Args:
        activity: the plug.
        deadline_s: seconds of silence that count as hanging; None runs everything in this process.
        jobs: shards; None for what ``default_jobs`` says.
        default_jobs: tells the number of shards from the first worker's facts.
        fleet: other machines that run the items; closed with the engine.
    """

    def __init__(
        self,
        activity: Activity,
        *,
        deadline_s: float | None,
        jobs: int | None = None,
        default_jobs: Callable[[Facts], int] = lambda facts: 1,
        fleet: Fleet | None = None,
    ) -> None:
        self._activity = activity
        self._deadline_s = deadline_s
        self._jobs, self._default_jobs = jobs, default_jobs
        self._stack = ExitStack()
        self._shards: list[Shard] = []
        self._facts: Facts
        self._found: Facts | None = None
        self._fleet = fleet
        if fleet is not None:
            self._stack.callback(fleet.close)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def prepare(self) -> Facts:
        """Start the first worker, which opens the device and loads what is judged; writes nothing.

        Raises:
            PabenchError: any of it is refused.
            EnvironmentRefused: any of it ends the worker.
        """
        self._facts = self._found = self._shard().open()
        return self._facts

    def ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask the bench of the first worker something beside the items, after ``prepare``.

        Raises:
            PabenchError: what the bench refuses.
            WorkerEnded: the question ended the worker.
        """
        return self._shards[0].ask(what)

    def run(
        self,
        items: Sequence[Item],
        directory: RunDirectory,
        *,
        ends_at: float | None = None,
        max_failures: int | None = None,
        progress: Callable[[int], Progress] = make_progress,
    ) -> Finished:
        """Run what the journal lacks, a record an item, then close the run with its exit code.

        Args:
            items: all of the run.
            directory: where records and failures go; closed at the end.
            ends_at: on ``time.monotonic``; no item but the first begins after it.
            max_failures: no item begins after so many have failed, crashed or hung; None for no limit.
            progress: makes the display.

        Raises:
            PabenchError: the machine gave out; what is done stays, and can be resumed.
        """
        done = {record.id: record for record in directory.records if record.status != Status.INTERRUPTED}
        missing = [item for item in items if item.id not in done]
        work = _Work(
            items=missing,
            activity=self._activity,
            directory=directory,
            ends_at=ends_at,
            done=done,
            max_failures=max_failures,
        )
        if missing:
            jobs = min(self._jobs or self._default_jobs(self._facts), len(missing))
            if self._fleet is not None:
                jobs = min(jobs, self._fleet.places)  # more would hold items that others could run
            for _ in range(1, jobs):
                self._shard()
        interrupted = False
        try:
            with progress(len(missing)) as display, stop_signals():
                work.display = display
                try:
                    self._until_done(work)
                except KeyboardInterrupt:
                    interrupted = True
                    self._halt(work)
                except BaseException:
                    self._halt(work)
                    raise
        except Exception as error:
            code = error.exit_code if isinstance(error, PabenchError) else PabenchError.exit_code
            with contextlib.suppress(PabenchError, OSError):
                directory.finish(status="interrupted", exit_code=code)
            raise
        found = {record.id: record for record in directory.records}
        order = dict.fromkeys([*(item.id for item in items), *found])
        records = tuple(found[name] for name in order if name in found)
        code = exit_code(
            (record.status for record in records),
            interrupted=interrupted,
            hang_is_result=self._activity.hang_is_result,
        )
        directory.note(not_run=work.not_run)
        directory.finish(status="interrupted" if interrupted else "finished", exit_code=code)
        return Finished(
            records=records,
            interrupted=interrupted,
            not_run=work.not_run,
            exit_code=code,
            why_not=work.why_not,
        )

    def one(self, item: Item, directory: RunDirectory) -> Record:
        """Run one item on the first worker and write what came of it; for a caller that has its own loop."""
        return write(self._activity, directory, item, self._shards[0].run(item, lambda text: None))

    def _shard(self) -> Shard:
        made: Shard
        if self._deadline_s is None:
            made = LocalShard(self._activity)
        elif self._fleet is not None:
            silence_s = self._activity.silence_s(self._deadline_s)
            made = self._stack.enter_context(
                FleetShard(self._activity, self._fleet, deadline_s=silence_s, expected=lambda: self._found)
            )
        else:
            made = self._stack.enter_context(
                WorkerShard(self._activity, deadline_s=self._activity.silence_s(self._deadline_s))
            )
        self._shards.append(made)
        return made

    def _until_done(self, work: _Work) -> None:
        if self._deadline_s is None:
            work.run(self._shards[0])  # debuggers and signals want the main thread
            work.record()
            return
        ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

        def run(shard: Shard) -> None:
            try:
                work.run(shard)
                shard.rest()
            except BaseException as error:
                ended.put(error)
            else:
                ended.put(None)

        threads = [threading.Thread(target=run, args=(shard,), daemon=True) for shard in self._shards]
        work.threads = threads
        with no_stop():  # whoever stops them waits for all to end, which needs all to have begun
            for thread in threads:
                thread.start()
        left = len(threads)
        while left:
            work.record()
            try:
                error = ended.get(timeout=WAKE_S)
            except queue.Empty:
                continue
            if error is not None:
                raise error
            left -= 1
        work.record()

    def _halt(self, work: _Work) -> None:
        """End all shards, and record what they leave."""
        work.halted = True
        for shard in self._shards:
            shard.halt()
        for thread in work.threads:
            thread.join()
        with contextlib.suppress(PabenchError, OSError):
            work.record(all_of_it=True)


@dataclass(slots=True, kw_only=True)
class _Work:
    """What is left to do, shared by the shards; only the main thread writes."""

    items: Sequence[Item]
    activity: Activity
    directory: RunDirectory
    ends_at: float | None
    done: dict[str, Record]
    max_failures: int | None
    display: Any = None
    halted: bool = False
    threads: list[threading.Thread] = field(default_factory=list)
    not_run: int = 0
    why_not: str = ""
    _next: int = 0
    _held: dict[int, Answer] = field(default_factory=dict)
    _written: int = 0
    _failures: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, shard: Shard) -> None:
        """Take items as long as there are some."""
        while (place := self._take()) is not None:
            item, interrupt = self.items[place], None
            try:
                spared = self.activity.spare(item, self._known())
                answer = (
                    shard.run(item, lambda text, item=item: self.display.note(item, text))  # type: ignore[misc]
                    if spared is None
                    else Answer(record=spared)
                )
            except (Halted, KeyboardInterrupt) as halted:
                # the second is the user's, in the process of the user's own
                interrupt = halted if isinstance(halted, KeyboardInterrupt) else None
                reason = str(halted) or "interrupted"
                blank = item.blank(self.directory.device)
                answer = Answer(record=replace(blank, status=Status.INTERRUPTED, reason=reason))
            with self._lock:
                self._held[place] = answer
                self._failures += answer.record.status in broken(hang_is_result=self.activity.hang_is_result)
            if interrupt is not None:
                raise interrupt
            if threading.current_thread() is threading.main_thread():
                self.record()

    def record(self, *, all_of_it: bool = False) -> None:
        """Write what nothing can come before any more, in the order of the items; the main thread's."""
        while True:
            # a record is in the journal and counted, or neither, whatever signal comes
            with no_stop():
                with self._lock:
                    place = min(self._held, default=None)
                    if place is None or (place != self._written and not all_of_it):
                        return
                    answer = self._held.pop(place)
                    self._written = place + 1
                self._write(self.items[place], answer)

    def _write(self, item: Item, answer: Answer) -> None:
        record = write(self.activity, self.directory, item, answer)
        for one in (record, *answer.more):
            self.done[one.id] = one
        self.display.done(item, str(record.status), self.activity.brief(record), record.duration_s)

    def _known(self) -> list[Record]:
        with self._lock:
            return [*self.done.values(), *(answer.record for answer in self._held.values())]

    def _take(self) -> int | None:
        with self._lock:
            left = len(self.items) - self._next
            if self.halted or not left:
                return None
            if why := self._enough():
                self.not_run, self.why_not, self._next = left, why, len(self.items)
                return None
            place, self._next = self._next, self._next + 1
        self.display.start(self.items[place])
        return place

    def _enough(self) -> str:
        if self.max_failures is not None and self._failures >= self.max_failures:
            return f"--maxfail {self.max_failures}"
        late = self._next and self.ends_at is not None and time.monotonic() >= self.ends_at
        return "the budget is spent" if late else ""


def cut_short(directory: RunDirectory) -> Finished:
    """Close a run that was stopped before its first item, or a second time while it was being closed."""
    code = exit_code((), interrupted=True)
    directory.finish(status="interrupted", exit_code=code)
    return Finished(records=directory.records, interrupted=True, not_run=0, exit_code=code)


def write(activity: Activity, directory: RunDirectory, item: Item, answer: Answer) -> Record:
    """Save the failing case of an answer, where there is one, append its records, and return the item's."""
    record = _with_version(activity.finish(item, answer.record), directory)
    failing = answer.failing
    if failing is not None:
        saved = save_failure(
            directory.path,
            check=failing.check,
            case_id=failing.id,
            kind=failing.kind,
            case=failing.case,
            subject=record.subject.name,
            device=record.device,
            text=record.reason or "",
            traceback=record.details.get("traceback"),
            words=tuple(activity.replay_words(record)),
            beside=lambda folder: activity.beside(folder, failing),
        )
        record = replace(record, failure=saved)
    for one in (record, *answer.more):
        directory.append(one)
    return record


def _with_version(record: Record, directory: RunDirectory) -> Record:
    """Return a record that says which release its subject is, as the run's provenance has it."""
    subject = record.subject
    for one in directory.run.get("provenance", {}).get("subjects", ()):
        if (one["kind"], one["name"]) == (subject.kind, subject.name):
            version, mode = subject.version or one.get("version"), subject.mode or one.get("mode")
            return replace(record, subject=replace(subject, version=version, mode=mode))
    return record
