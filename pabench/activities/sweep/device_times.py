"""Times of a cell on a GPU: the whole batch, out of a cold cache, by events around a CUDA graph."""

from __future__ import annotations

import time
from typing import Any

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.measure import PREPARE
from pabench.activities.sweep.stopwatch import Stopwatch
from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.judge.traffic import decode_traffic
from pabench.problem.case import Case
from pabench.subjects.backends.base import LAYERS, AttentionOutput, Backend, LayeredBackend, layered
from pabench.timing.cold import calls_per_sample, is_cold, rotation_sets
from pabench.timing.sampler import sample, warm_up

ROOM = 0.9
"""Part of the free memory that a cell may take."""
HIDDEN_NS = 2e6
"""The host may wait so much longer than the events say, for launches and queues."""


def device_times(
    cell: Cell, backend: Backend, device: Device, stopwatch: Stopwatch
) -> tuple[dict[str, Any], AttentionOutput]:
    """Return ``plan_ns``, ``run_ns``, ``PREPARE`` and ``timing``, and the output of a plan that was timed.

    ``run_ns`` are samples of one call, each the mean over the calls of a sample; a call reads a set of pages
    that several others have pushed out of the cache.  ``timing`` says how it was measured.

    Raises:
        Unsupported: the GPU has not the memory.
    """
    traffic = decode_traffic(cell.problem, cell.batch.kv_lens)
    sets = rotation_sets(traffic.total_bytes, stopwatch.timer.l2_bytes)
    _check_room(cell, sets, stopwatch.timer.free_bytes())
    figures, output = _measured(cell.case(cell.batch.kv_lens), backend, device, stopwatch, sets)
    # the arrays are gone by now
    stopwatch.trim()
    figures["timing"]["cold"] = is_cold(traffic.total_bytes, stopwatch.timer.l2_bytes, sets)
    return figures, output


def _measured(
    case: Case, backend: Backend, device: Device, stopwatch: Stopwatch, sets: int
) -> tuple[dict[str, Any], AttentionOutput]:
    make = stopwatch.resident_tensors if getattr(backend, "takes_resident", False) else stopwatch.tensors
    plans, plan_ns = [], []
    for _ in range(sets):
        tensors = make(case)  # a cache of its own: on the device already, or copied there by the plan
        start = time.perf_counter_ns()
        plans.append(backend.plan(tensors))
        device.synchronize()
        plan_ns.append(time.perf_counter_ns() - start)
    for plan in plans:  # compilers and lazy loading are done before anything is timed or captured
        backend.run(plan)
    device.synchronize()
    call_ns = stopwatch.elapsed(lambda: backend.run(plans[0]), graph=False).device_ns
    calls = calls_per_sample(call_ns, sets)

    def turn() -> None:
        for call in range(calls):
            backend.run(plans[call % sets])

    # only a backend that says so queues all its work where a capture sees it: what is not seen takes no time
    replay = stopwatch.timer.capture(turn) if getattr(backend, "captures", False) else None
    waited = []

    def once() -> float:
        elapsed = stopwatch.elapsed(replay or turn, graph=replay is not None)
        waited.append(elapsed.host_ns > 2 * elapsed.device_ns + HIDDEN_NS)
        return elapsed.device_ns / calls

    before = stopwatch.smi.read()
    warm_up(once)
    waited.clear()
    taken = sample(once)
    after = stopwatch.smi.read()
    low, high = taken.interval_ns
    timing = {
        "method": "stream" if replay is None else "graph",
        "calls": calls,
        "sets": sets,
        "stopped": taken.stopped,
        "median_low_ns": low,
        "median_high_ns": high,
        "host_waited_longer": sum(waited),
        "before": None if before is None else before.moving(),
        "after": None if after is None else after.moving(),
    }
    times = {"plan_ns": plan_ns, "run_ns": list(taken.values_ns), "timing": timing}
    if LAYERS in backend.capabilities.operations:
        times[PREPARE] = _prepare_ns(layered(backend), plans[0], stopwatch, calls)
    return times, backend.fetch(plans[0])


def _prepare_ns(backend: LayeredBackend, plan: Any, stopwatch: Stopwatch, calls: int) -> list[float]:
    def turn() -> None:
        for _ in range(calls):
            backend.prepare(plan)

    replay = stopwatch.timer.capture(turn) if getattr(backend, "captures", False) else None

    def once() -> float:
        return stopwatch.elapsed(replay or turn, graph=replay is not None).device_ns / calls

    warm_up(once)
    return list(sample(once).values_ns)


def _check_room(cell: Cell, sets: int, free_bytes: int) -> None:
    needed = sets * cell.memory().slots * cell.problem.token_bytes
    if needed > ROOM * free_bytes:
        raise Unsupported(f"{needed / 2**30:.1f} GiB of cache, the GPU has {free_bytes / 2**30:.1f} GiB free")
