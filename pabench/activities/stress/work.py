"""What a worker process of a stress run does: opens the device once, then runs one cell a message."""

from __future__ import annotations

from typing import Any

from pabench.activities.stress.cell import StressCell
from pabench.activities.stress.line import stress_line
from pabench.activities.stress.scenarios import RUN, Unsound
from pabench.device.base import Device
from pabench.device.registry import DeviceRequest
from pabench.errors import OutOfPages, PabenchError, Unsupported
from pabench.run.channel import Channel, refusal
from pabench.subjects.allocators.registry import allocator_entry

ENTRY = "pabench.activities.stress.work:work"


def work(channel: Channel) -> None:
    """Serve ``runner.py``; an error that pabench raises on purpose goes back as a message."""
    task = channel.receive()
    if task is None:
        return
    try:
        device = DeviceRequest(**task["device"]).open()
        channel.send({"event": "ready", "name": device.name, "description": device.description})
        while (order := channel.receive()) is not None:
            line = run_cell(StressCell(**order["cell"]), device, lambda: channel.send({"event": "alive"}))
            channel.send({"event": "result", "line": line})
    except PabenchError as error:
        channel.send(refusal(error))


def run_cell(cell: StressCell, device: Device, alive: Any = lambda: None) -> dict[str, Any]:
    """Run a cell in this process and return its journal line; ``alive`` is called while all is well."""
    try:
        entry = allocator_entry(cell.allocator)
        entry.load()
        device.reschedule(cell.seed)
        figures = RUN[cell.scenario](cell, lambda shape: entry.make(device, shape), alive)
    except Unsupported as lacking:
        return stress_line(cell, device.name, status="unsupported", reason=str(lacking))
    except Unsound as broken:
        return stress_line(cell, device.name, status="failed", reason=str(broken))
    except OutOfPages as refused:
        reason = f"refused what fits: {refused}"
        return stress_line(cell, device.name, status="failed", reason=reason)
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return stress_line(cell, device.name, status="crashed", reason=said[:600])
    return stress_line(cell, device.name, status="ok", figures=figures)
