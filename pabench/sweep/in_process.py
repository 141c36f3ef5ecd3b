"""Runs cells in this process: for debuggers, for tests that look inside, and inside a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pabench.backends.base import Backend
from pabench.backends.registry import load_backend
from pabench.controls.hold import open_believed
from pabench.device.base import Device
from pabench.device.facts import DeviceFacts
from pabench.device.registry import DeviceRequest
from pabench.errors import DeviceFault
from pabench.problem.case import Case
from pabench.sweep.cell import Cell
from pabench.sweep.line import CellResult
from pabench.sweep.run_cell import preflight, run_cell
from pabench.timing.gpus import Gpu


class InProcessBench:
    """Implements ``Bench``.

    Args:
        device: what to open.
        backends: names.
        gpu: of the modelled figures.
        announce: told each case before it runs.
        loading: told what is about to be loaded.
    """

    def __init__(
        self,
        device: DeviceRequest,
        backends: Sequence[str],
        gpu: Gpu,
        *,
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

    def open(self) -> DeviceFacts:
        """Open the device and load the backends."""
        self._loading(f"device {self._request.name!r}")
        self._device = open_believed(self._request)
        for name in self._names:
            self._loading(f"backend {name!r}")
            self._backends[name] = load_backend(name, self._device)
        return DeviceFacts(name=self._device.name, description=self._device.description)

    def preflight(self, cells: Iterable[Cell]) -> None:
        """Let the backend plan once."""
        any(self.tried(cell) for cell in cells)

    def tried(self, cell: Cell) -> bool:
        """Plan the smallest problem of ``cell``; False when its backend does not support it."""
        return preflight(cell, self._backends[cell.backend])

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
        backend = self._backends[cell.backend]
        return run_cell(cell, backend, self._device, self._gpu, announce=self._announce)
