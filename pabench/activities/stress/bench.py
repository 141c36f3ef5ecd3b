# SPDX-License-Identifier: Apache-2.0
"""The worker's side of a stress run: opens the device once, then runs one cell after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pabench.activities.stress.cell import StressCell
from pabench.activities.stress.scenarios import RUN, Unsound
from pabench.device.base import Device
from pabench.device.registry import DeviceRequest
from pabench.errors import OutOfPages, Unsupported
from pabench.run.figures import figures_of
from pabench.run.plug import Answer, BenchBase, Env
from pabench.run.record import Record, Status
from pabench.subjects.reference import ALLOCATOR
from pabench.subjects.registry import load_allocator
from pabench.subjects.versions import subject_facts
from pabench.tracebacks import described


class StressBench(BenchBase):
    """Implements ``Bench``.

    Args:
        setup: ``device``, a ``DeviceRequest`` as JSON, and ``allocators``, the names of all in the run.
        env: hears that a cell is alive.
    """

    def __init__(self, setup: Mapping[str, Any], env: Env) -> None:
        self._request, self._env = DeviceRequest(**setup["device"]), env
        self._allocators = setup["allocators"]
        self._device: Device

    def open(self) -> Mapping[str, Any]:
        """See ``Bench``."""
        self._env.loading(f"device {self._request.name!r}")
        self._device = self._request.open(must_run=any(map(launches, self._allocators)))
        return {
            "device": self._device.name,
            "description": self._device.description,
            "subjects": subject_facts(ALLOCATOR, self._allocators),
        }

    def run(self, item: Mapping[str, Any]) -> Answer:
        """See ``Bench``."""
        cell, began = StressCell(**item), time.monotonic()
        record = run_cell(cell, self._device, lambda: self._env.note(cell.check))
        return Answer(record=replace(record, duration_s=round(time.monotonic() - began, 3)))


def launches(name: str) -> bool:
    """Return whether an allocator needs a device that runs kernels; one that is not to be had needs none."""
    try:
        return load_allocator(name).on_device
    except Unsupported:
        return False  # its cells say what it lacks


def run_cell(cell: StressCell, device: Device, alive: Callable[[], None] = lambda: None) -> Record:
    """Run a cell in this process and return its record; ``alive`` is called while all is well."""
    blank = cell.blank(device.name)
    try:
        entry = load_allocator(cell.allocator)
        device.reschedule(cell.seed)
        found = RUN[cell.scenario](cell, lambda shape: entry.make(device, shape), alive)
    except Unsupported as lacking:
        return replace(blank, status=Status.UNSUPPORTED, reason=str(lacking))
    except Unsound as broken:
        return replace(blank, status=Status.FAILED, reason=str(broken))
    except OutOfPages as refused:
        return replace(blank, status=Status.FAILED, reason=f"refused what fits: {refused}")
    except Exception as error:
        return replace(blank, status=Status.CRASHED, reason=described(error))
    words = {name: "host" if name.endswith("_ns") else "counted" for name in found}
    return replace(blank, status=Status.PASSED, figures=figures_of(found, words))
