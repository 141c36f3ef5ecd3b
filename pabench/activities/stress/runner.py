"""Runs stress cells in a worker process, and writes one journal line a cell: a timeout is a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pabench.activities.stress.cell import StressCell
from pabench.activities.stress.line import stress_line
from pabench.activities.stress.work import ENTRY
from pabench.device.facts import DeviceFacts
from pabench.device.registry import DeviceRequest
from pabench.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_NOTHING_RAN, EXIT_OK, EnvironmentRefused
from pabench.run.channel import Message, raise_refusal
from pabench.run.directory import RunDirectory
from pabench.run.workers import Nursery, Worker, WorkerEnded

Show = Callable[[dict[str, Any]], None]


class StressRunner:
    """Supervises the workers; a context manager that leaves no process behind.

    Args:
        device: what a worker opens.
        deadline_s: seconds that one call may take; what takes longer is a timeout, and larger sizes of the
            same scenario are not tried.
    """

    def __init__(self, device: DeviceRequest, *, deadline_s: float, entry: str = ENTRY) -> None:
        self._device = device
        self._deadline_s = deadline_s
        self._nursery = Nursery(entry)
        self._worker: Worker | None = None
        self._facts: DeviceFacts

    def __enter__(self) -> StressRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self._nursery.close()

    def open(self) -> DeviceFacts:
        """Start a worker that opens the device; raises what that refuses."""
        self._worker = self._nursery.start()
        self._worker.send({"device": self._device.to_dict()})
        try:
            message = self._receive()
        except WorkerEnded as ended:
            raise EnvironmentRefused(f"the device cannot be opened: {ended.ending.text}") from None
        self._facts = DeviceFacts(name=str(message["name"]), description=str(message["description"]))
        return self._facts

    def run(
        self, cells: Sequence[StressCell], directory: RunDirectory, show: Show = lambda line: None
    ) -> int:
        """Run the cells, record each line and return the exit code."""
        slow: dict[tuple[str, str], StressCell] = {}
        states: list[str] = []
        try:
            for cell in cells:
                before = slow.get((cell.allocator, cell.scenario))
                line = self._one(cell) if before is None else self._spared(cell, before)
                if line["status"] == "timeout":
                    slow.setdefault((cell.allocator, cell.scenario), cell)
                directory.append(line)
                show(line)
                states.append(line["status"])
        except KeyboardInterrupt:
            self._nursery.stop()
            return EXIT_INTERRUPTED
        if "failed" in states or "crashed" in states:
            return EXIT_FAILURE
        return EXIT_OK if "ok" in states or "timeout" in states else EXIT_NOTHING_RAN

    def _one(self, cell: StressCell) -> dict[str, Any]:
        if self._worker is None:
            self.open()
        worker = self._worker
        if worker is None:
            raise EnvironmentRefused("no worker process can be started")
        worker.send({"cell": cell.to_dict()})
        try:
            while (message := self._receive())["event"] != "result":
                pass
        except WorkerEnded as ended:
            self._worker = None
            status, text = ("timeout", self._late()) if ended.ending.hung else ("crashed", ended.ending.text)
            return stress_line(cell, self._facts.name, status=status, reason=text)
        line: dict[str, Any] = message["line"]
        return line

    def _spared(self, cell: StressCell, before: StressCell) -> dict[str, Any]:
        reason = f"not tried: {before.label} {self._late()}"
        return stress_line(cell, self._facts.name, status="timeout", reason=reason)

    def _late(self) -> str:
        return f"took longer than {self._deadline_s:g} s"

    def _receive(self) -> Message:
        if self._worker is None:
            raise EnvironmentRefused("no worker process can be started")
        message = self._worker.receive(self._deadline_s)
        raise_refusal(message)
        return message
