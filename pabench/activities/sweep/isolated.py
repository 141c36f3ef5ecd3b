"""Runs cells in a worker process that is used from cell to cell, and replaced when a cell ends it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.line import CellResult, blank_line, crashed_cell
from pabench.device.facts import DeviceFacts
from pabench.device.registry import DeviceRequest
from pabench.errors import DeviceFault, EnvironmentRefused
from pabench.problem.case import Case, case_from_dict
from pabench.run.channel import Message, raise_refusal
from pabench.run.workers import Nursery, Worker, WorkerEnded
from pabench.timing.gpus import Gpu

ENTRY = "pabench.activities.sweep.work:work"


class IsolatedBench:
    """Implements ``Bench``; the nursery is the caller's to close.

    Args:
        device: what a worker opens.
        backends: names of what it loads.
        gpu: of the modelled figures.
        optional: see ``InProcessBench``.
        nursery: of ``ENTRY``.
        deadline_s: seconds that one case of a cell's check, or its timing, may take.
    """

    def __init__(
        self,
        device: DeviceRequest,
        backends: Sequence[str],
        gpu: Gpu,
        *,
        optional: bool = False,
        nursery: Nursery,
        deadline_s: float,
    ) -> None:
        self._task: dict[str, Any] = {"device": device.to_dict(), "backends": list(backends), "gpu": gpu.name}
        self._task["optional"] = optional
        self._gpu = gpu
        self._nursery = nursery
        self._deadline_s = deadline_s
        self._worker: Worker | None = None

    def open(self) -> DeviceFacts:
        """Start a worker that opens the device and loads the backends; raises what that refuses.

        Raises:
            EnvironmentRefused: any of it ends the worker.
        """
        what = "the sweep"
        worker = self._nursery.start()
        worker.send(self._task)
        try:
            while (message := self._receive(worker))["event"] != "ready":
                what = str(message["what"])
        except WorkerEnded as ended:
            raise EnvironmentRefused(f"{what} cannot be loaded: {ended.ending.text}") from None
        self._worker = worker
        return DeviceFacts(name=str(message["name"]), description=str(message["description"]))

    def preflight(self, cells: Iterable[Cell]) -> None:
        """Let a backend plan once; a worker that this ends is told of in the cell that ends one too."""
        for cell in cells:
            try:
                if self._ask({"do": "preflight", "cell": cell.to_dict()}, [])["tried"]:
                    return
            except WorkerEnded:
                return

    def hardware(self) -> dict[str, Any] | None:
        """Let a worker measure the device's ceilings.

        Raises:
            DeviceFault: that ends the worker.
        """
        try:
            measured: dict[str, Any] | None = self._ask({"do": "hardware"}, [])["hardware"]
        except WorkerEnded as ended:
            raise DeviceFault(f"the ceilings of this GPU cannot be measured: {ended.ending.text}") from None
        return measured

    def run(self, cell: Cell) -> CellResult:
        """Run one cell; the end of the worker is a crashed cell."""
        announced: list[Case] = []
        try:
            message = self._ask({"do": "run", "cell": cell.to_dict()}, announced)
        except WorkerEnded as ended:
            return crashed_cell(blank_line(cell, self._gpu), ended.ending.text, *announced)
        if message["lost"]:
            self._worker = None
        failing = message["failing"]
        return CellResult(line=message["line"], failing=None if failing is None else case_from_dict(failing))

    def _ask(self, order: Message, announced: list[Case]) -> Message:
        """Send an order to the worker and return its answer; ``announced`` holds the case in flight."""
        if self._worker is None:
            self.open()
        worker, self._worker = self._worker, None
        if worker is None:
            raise EnvironmentRefused("no worker process can be started")
        worker.send(order)
        while (message := self._receive(worker))["event"] == "case":
            announced[:] = [case_from_dict(message["case"])]
        # only a worker that has answered is asked again
        self._worker = worker
        return message

    def _receive(self, worker: Worker) -> Message:
        message = worker.receive(self._deadline_s)
        raise_refusal(message)
        return message
