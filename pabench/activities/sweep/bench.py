"""Where cells run: in this process, or (``isolated.py``) in worker processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.line import CellResult
from pabench.device.facts import DeviceFacts


class Bench(Protocol):
    """Runs cells."""

    def open(self) -> DeviceFacts:
        """Open the device and load the backends; raises ``PabenchError`` where this machine cannot."""

    def preflight(self, cells: Iterable[Cell]) -> None:
        """Let a backend plan the smallest problem of the first of its cells that it supports.

        A missing compiler shows before any file.

        Raises:
            EnvironmentRefused: this machine cannot run the cells' backend.
        """

    def hardware(self) -> dict[str, Any] | None:
        """Measure what the device reaches at best; None where nothing is measured."""

    def run(self, cell: Cell) -> CellResult:
        """Check, time and model one cell; raises ``EnvironmentRefused`` where the machine has given out."""
