"""What a line gets beside what its cell did: what was expected, and how far it is from the ceilings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.expect import EXPECTED_FIGURES, against_ceilings
from pabench.activities.sweep.prepare import Prepared
from pabench.run.directory import RunDirectory


def note_hardware(directory: RunDirectory, prepared: Prepared) -> None:
    """Measure the ceilings of a CUDA device and write them to ``run.json``, once a run.

    Expectations are there already: they stand in the configuration, which is written when the run begins.
    """
    if prepared.device.name == "cuda" and "hardware" not in directory.run:
        directory.note(hardware=prepared.bench.hardware())


class Finisher:
    """Completes lines: called with a cell and its line, returns the whole line.

    Args:
        prepared: the sweep.
        hardware: as ``note_hardware`` left it; None where nothing is measured.
    """

    def __init__(self, prepared: Prepared, hardware: Mapping[str, Any] | None) -> None:
        self._prepared, self._hardware = prepared, hardware

    def __call__(self, cell: Cell, line: dict[str, Any]) -> dict[str, Any]:
        """Return ``line`` with what was expected, and with the fractions of the ceilings."""
        if figures := self._prepared.expected.get(cell.id):
            words = {name: "modelled" for name in EXPECTED_FIGURES if figures[name] is not None}
            line = {**line, **figures, "provenance": {**line["provenance"], **words}}
        if self._hardware:
            line = {**line, **against_ceilings(cell, line, self._prepared.gpu, self._hardware["ceilings"])}
        return line
