# SPDX-License-Identifier: Apache-2.0
"""Where items run one after another: in a worker process, replaced when an item ends it, or in this one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from pabench.errors import EnvironmentRefused
from pabench.run.bench_worker import ENTRY, answer_of, answer_to_message, make_bench
from pabench.run.channel import Message, raise_refusal
from pabench.run.plug import Activity, Answer, Facts, FailingCase, Item
from pabench.run.record import Status
from pabench.run.workers import ForkServer, Worker, WorkerEnded


class Shard(Protocol):
    """What runs items one after another."""

    def open(self) -> Facts:
        """Get ready."""

    def run(self, item: Item, note: Callable[[str], None]) -> Answer:
        """Run one item."""

    def ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask the bench; see ``Engine.ask``."""

    def halt(self) -> None:
        """End the item in work, from another thread."""

    def rest(self) -> None:
        """Give back what others may need: no item is left for it."""


class Halted(Exception):
    """The run was stopped while an item was in work; the message says how far it was."""


class LocalShard:
    """Runs items in this process: for debuggers, and for tests that look inside."""

    def __init__(self, activity: Activity) -> None:
        self._bench = make_bench(activity.bench)(dict(activity.setup()), self)
        self._note: Callable[[str], None] = lambda text: None

    def open(self) -> Facts:
        """See ``Shard``."""
        return facts_of(dict(self._bench.open()))

    def run(self, item: Item, note: Callable[[str], None]) -> Answer:
        """Run one item; its JSON form goes there and back, as between processes."""
        self._note = note
        return answer_of(answer_to_message(self._bench.run(item.to_dict())))

    def ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        """See ``Shard``."""
        return self._bench.ask(what)

    def halt(self) -> None:
        """Do nothing: the interrupt has ended the item."""

    def rest(self) -> None:
        """Do nothing: the process is the run's own."""

    def loading(self, what: str) -> None:
        """See ``Env``."""

    def case(self, case: FailingCase) -> None:
        """See ``Env``."""

    def note(self, text: str) -> None:
        """See ``Env``."""
        self._note(text)


class WorkerShard:
    """Runs items in a worker process that is used from item to item, and replaced when one ends it."""

    def __init__(self, activity: Activity, *, deadline_s: float) -> None:
        self._activity, self._deadline_s = activity, deadline_s
        module = activity.bench.rpartition(":")[0]
        # imported once, before workers are forked; a file is the worker's to load
        self._fork_server = ForkServer(ENTRY, preload=() if module.endswith(".py") else (module,))
        self._worker: Worker | None = None
        self._facts: Facts

    def __enter__(self) -> WorkerShard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker."""
        self._fork_server.close()

    def renew(self, activity: Activity) -> Facts:
        """Go on with another activity that has the same bench; raises what its bench refuses."""
        self._activity = activity
        worker, self._worker = self._worker, None
        if worker is None:
            return self.open()
        worker.send({"setup": dict(activity.setup())})
        try:
            return self._ready(worker)
        except WorkerEnded:
            return self.open()

    def halt(self) -> None:
        """See ``Shard``."""
        self._fork_server.halt()

    def rest(self) -> None:
        """Keep the worker: the caller may have more for it."""

    def open(self) -> Facts:
        """Start a worker; raises what its bench refuses."""
        worker = self._fork_server.start()
        worker.send({"bench": self._activity.bench, "setup": dict(self._activity.setup())})
        return self._ready(worker)

    def _ready(self, worker: Worker) -> Facts:
        what = f"the {self._activity.kind} run"
        try:
            while (message := self._receive(worker))["event"] != "ready":
                what = str(message.get("what", what))
        except WorkerEnded as ended:
            raise EnvironmentRefused(f"{what} cannot be loaded: {ended.ending.text}") from None
        self._worker = worker
        self._facts = facts_of(message["facts"])
        return self._facts

    def run(self, item: Item, note: Callable[[str], None]) -> Answer:
        """Run one item; the end of the worker is its record."""
        announced: FailingCase | None = None
        began, cases, noted = time.monotonic(), 0, ""
        try:
            if self._worker is None:
                self.open()
            worker, self._worker = self._worker, None
            if worker is None:
                raise EnvironmentRefused("no worker process can be started")
            worker.send({"item": item.to_dict()})
            while (message := self._receive(worker))["event"] != "answer":
                if message["event"] == "raised":
                    # whoever leaves an exception behind may have left more: a new process for the next item
                    return self._ended(item, Status.CRASHED, str(message["text"]), began, announced)
                if message["event"] == "case":
                    announced, cases = FailingCase(**message["case"]), cases + 1
                elif message["event"] == "note":
                    noted = str(message["text"])
                    note(noted)
        except KeyboardInterrupt:
            far = f" after {cases} cases" if cases else f": {noted}" if noted else ""
            raise Halted(f"interrupted{far}") from None
        except WorkerEnded as ended:
            status = Status.HUNG if ended.ending.hung else Status.CRASHED
            return self._ended(item, status, ended.ending.text, began, announced)
        answer = answer_of(message)
        # only a worker that has answered is asked again
        self._worker = None if answer.lost else worker
        return answer

    def _ended(
        self, item: Item, status: Status, text: str, began: float, announced: FailingCase | None
    ) -> Answer:
        took = round(time.monotonic() - began, 3)
        record = replace(item.blank(self._facts.device), status=status, reason=text, duration_s=took)
        return Answer(record=record, failing=announced)

    def ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        """See ``Shard``; a worker that this ends is replaced."""
        if self._worker is None:
            self.open()
        worker, self._worker = self._worker, None
        if worker is None:
            raise EnvironmentRefused("no worker process can be started")
        worker.send({"ask": dict(what)})
        while (message := self._receive(worker))["event"] != "said":
            pass
        self._worker = worker
        said: Mapping[str, Any] = message["said"]
        return said

    def _receive(self, worker: Worker) -> Message:
        try:
            message = worker.receive(self._deadline_s)
        except WorkerEnded:
            if self._fork_server.halted:
                raise KeyboardInterrupt from None
            raise
        raise_refusal(message)
        return message


def facts_of(found: dict[str, Any]) -> Facts:
    """Return what ``Bench.open`` found."""
    return Facts(device=str(found["device"]), description=str(found["description"]), more=found)
