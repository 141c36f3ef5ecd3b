"""What a worker process of a sweep does: opens device and backends once, then runs one cell a message."""

from __future__ import annotations

from pabench.activities.sweep.cell import cell_from_dict
from pabench.activities.sweep.in_process import InProcessBench
from pabench.activities.sweep.line import CellResult, blank_line, crashed_cell
from pabench.device.registry import DeviceRequest
from pabench.errors import PabenchError
from pabench.problem.case import Case
from pabench.run.channel import Channel, refusal
from pabench.run.forks import FORKED, ForkGuard
from pabench.timing.gpus import gpu_by_name


def work(channel: Channel) -> None:
    """Serve ``isolated.py``; an error that pabench raises on purpose goes back as a message."""
    task = channel.receive()
    if task is None:
        return
    gpu, guard = gpu_by_name(task["gpu"]), ForkGuard()
    last: list[Case] = []
    copies: list[Case] = []

    def announce(case: Case) -> None:
        # a copy that the case before has left does not get as far as the end of the cell
        if last and guard.copy_came_back():
            copies.extend(last)
            raise RuntimeError(FORKED)
        last[:] = [case]
        channel.send({"event": "case", "case": case.to_dict()})

    def run(order: dict[str, object]) -> CellResult:
        cell = cell_from_dict(order["cell"])
        last.clear()
        copies.clear()
        try:
            result = bench.run(cell)
        except KeyboardInterrupt:
            # nobody else interrupts a worker
            result = crashed_cell(blank_line(cell, gpu), "KeyboardInterrupt", *last)
        if guard.copy_came_back():
            copies.extend(last)
        return crashed_cell(blank_line(cell, gpu), FORKED, copies[0]) if copies else result

    try:
        bench = InProcessBench(
            DeviceRequest(**task["device"]),
            task["backends"],
            gpu,
            optional=task["optional"],
            announce=announce,
            loading=lambda what: channel.send({"event": "loading", "what": what}),
        )
        facts = bench.open()
        channel.send({"event": "ready", "name": facts.name, "description": facts.description})
        while (order := channel.receive()) is not None:
            if order["do"] == "hardware":
                channel.send({"event": "hardware", "hardware": bench.hardware()})
                continue
            if order["do"] == "preflight":
                channel.send({"event": "tried", "tried": bench.tried(cell_from_dict(order["cell"]))})
                continue
            result = run(order)
            failing = None if result.failing is None else result.failing.to_dict()
            # copies still come back, and would be taken for the next cell's
            lost = bool(copies) or (result.line["status"] != "ok" and bench.lost())
            channel.send({"event": "result", "line": result.line, "failing": failing, "lost": lost})
    except PabenchError as error:
        channel.send(refusal(error))
