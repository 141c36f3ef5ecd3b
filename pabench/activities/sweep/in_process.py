"""Runs cells in this process: for debuggers, for tests that look inside, and inside a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.line import CellResult, blank_line
from pabench.activities.sweep.run_cell import preflight, run_cell
from pabench.activities.sweep.stopwatch import Stopwatch
from pabench.controls.hold import open_believed
from pabench.device.base import Device
from pabench.device.facts import DeviceFacts
from pabench.device.registry import DeviceRequest
from pabench.errors import DeviceFault, PabenchError
from pabench.problem.case import Case
from pabench.subjects.backends.base import Backend
from pabench.subjects.backends.registry import load_backend
from pabench.timing.gpus import Gpu


class InProcessBench:
    """Implements ``Bench``.

    Args:
        device: what to open.
        backends: names.
        gpu: of the modelled figures.
        optional: whether a backend that cannot be loaded makes unsupported cells and no refusal.
        announce: told each case before it runs.
        loading: told what is about to be loaded.
    """

    def __init__(
        self,
        device: DeviceRequest,
        backends: Sequence[str],
        gpu: Gpu,
        *,
        optional: bool = False,
        announce: Callable[[Case], None] = lambda case: None,
        loading: Callable[[str], None] = lambda what: None,
    ) -> None:
        self._request = device
        self._names = backends
        self._gpu = gpu
        self._announce = announce
        self._loading = loading
        self._device: Device
        self._backends: dict[str, Backend] = {}
        self._optional = optional
        self._absent: dict[str, str] = {}
        self._stopwatch: Stopwatch | None = None

    def open(self) -> DeviceFacts:
        """Open the device and load the backends."""
        self._loading(f"device {self._request.name!r}")
        self._device = open_believed(self._request)
        for name in self._names:
            self._loading(f"backend {name!r}")
            try:
                self._backends[name] = load_backend(name, self._device)
            except PabenchError as error:
                if not self._optional:
                    raise
                self._absent[name] = str(error)
        return DeviceFacts(name=self._device.name, description=self._device.description)

    def preflight(self, cells: Iterable[Cell]) -> None:
        """Let the backend plan once."""
        any(self.tried(cell) for cell in cells)

    def tried(self, cell: Cell) -> bool:
        """Plan the smallest problem of ``cell``; False when its backend does not support it."""
        return cell.backend in self._backends and preflight(cell, self._backends[cell.backend])

    def hardware(self) -> dict[str, Any] | None:
        """Measure the device's ceilings; None where nothing is measured."""
        stopwatch = self._watch()
        return None if stopwatch is None else stopwatch.hardware()

    def lost(self) -> bool:
        """Whether no later call of this process can work: a CUDA context is gone after an illegal access."""
        if self._device.name != "cuda":
            return False
        try:
            self._device.synchronize()
        except DeviceFault:
            return True
        return False

    def run(self, cell: Cell) -> CellResult:
        """Run one cell; a crash of its backend is one of this process."""
        if cell.backend in self._absent:
            line = blank_line(cell, self._gpu)
            return CellResult(line=line | {"status": "unsupported", "reason": self._absent[cell.backend]})
        return run_cell(
            cell,
            self._backends[cell.backend],
            self._device,
            self._gpu,
            stopwatch=self._watch(),
            announce=self._announce,
        )

    def _watch(self) -> Stopwatch | None:
        """The instruments of a CUDA device, made when they are first needed."""
        if self._stopwatch is None and self._device.name == "cuda":
            self._stopwatch = Stopwatch(self._device)
        return self._stopwatch
