"""A worker of a stress run whose allocators misbehave: ``stack`` hangs, ``ticket`` ends its process."""

from __future__ import annotations

import os
import time

from pabench.activities.stress import scenarios
from pabench.activities.stress import work as shipped
from pabench.activities.stress.cell import StressCell
from pabench.run.channel import Channel
from pabench.subjects.allocators.registry import ALLOCATORS

ENTRY = "tests.support.stress_work:work"


def work(channel: Channel) -> None:
    """Serve as the shipped worker does."""
    scenarios.RUN["pages"] = misbehave
    shipped.work(channel)


def misbehave(cell: StressCell, make: scenarios.Make, alive: object) -> scenarios.Figures:
    """Hang from 16 pages on, or end, by the name of the allocator."""
    assert cell.allocator in ALLOCATORS
    if cell.allocator == "stack" and cell.size >= 16:
        time.sleep(3600)
    if cell.allocator == "ticket":
        os._exit(3)
    return {"requests": cell.size, "served": cell.size}
