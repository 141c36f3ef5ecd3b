# SPDX-License-Identifier: Apache-2.0
"""Stress as a plug for the engine: a cell a scenario and size; what hits the deadline is a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pabench.activities.stress.cell import StressCell
from pabench.device.registry import DeviceRequest
from pabench.run.plug import ActivityBase, Facts
from pabench.run.record import Record, Status


class Stress(ActivityBase):
    """Many requests, full pools, fragmentation over time.

    Args:
        cells: what is done.
        device: where.
        deadline_s: seconds that one call may take; larger sizes of a scenario that took longer are spared.
        config: options as they were resolved.
    """

    kind = "stress"
    noun = "cell"
    bench = "pabench.activities.stress.bench:StressBench"
    hang_is_result = True

    def __init__(
        self,
        cells: Sequence[StressCell],
        *,
        device: DeviceRequest,
        deadline_s: float,
        config: Mapping[str, Any],
    ) -> None:
        self._cells, self._device = tuple(cells), device
        self._deadline_s, self._config = deadline_s, config

    def setup(self) -> Mapping[str, Any]:
        """See ``Activity``."""
        names = {cell.allocator for cell in self._cells}
        return {"device": self._device.to_dict(), "allocators": sorted(names)}

    def items(self, facts: Facts) -> Sequence[StressCell]:
        """See ``Activity``."""
        return self._cells

    def config(self, facts: Facts) -> Mapping[str, Any]:
        """See ``Activity``."""
        return {**self._config, "device": facts.device, "deadline_s": self._deadline_s}

    def spare(self, item: StressCell, done: Sequence[Record]) -> Record | None:
        """Leave out what a smaller size has shown to take too long."""
        for record in done:
            same = (record.subject.name, record.details.get("scenario")) == (item.allocator, item.scenario)
            smaller = int(record.details.get("size") or 0) < item.size
            if same and smaller and record.status == Status.HUNG:
                said = f"not tried: {record.details['check']} took longer than {self._deadline_s:g} s"
                return replace(item.blank(record.device), status=Status.HUNG, reason=said)
        return None

    def finish(self, item: StressCell, record: Record) -> Record:
        """Say of a hang how long is too long."""
        if record.status != Status.HUNG or (record.reason or "").startswith("not tried"):
            return record
        return replace(record, reason=f"took longer than {self._deadline_s:g} s")
