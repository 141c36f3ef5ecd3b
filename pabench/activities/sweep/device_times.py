# SPDX-License-Identifier: Apache-2.0
"""Times of a cell on a GPU: the whole batch, by events, with the L2 cache as the cell's policy says.

Everything here goes through ``Instruments`` and ``Backend``, so that tests run it on a clock of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.measure import CYCLES, PREPARE
from pabench.activities.sweep.stopwatch import Sample
from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.problem.case import Case
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import LAYERS, AttentionOutput, Backend, LayeredBackend, layered
from pabench.timing.clocks import strays, taken_twice, unstable
from pabench.timing.cold import (
    FLUSH,
    GATED_CALLS,
    HOT,
    MAX_CALLS,
    ROTATE,
    L2Probe,
    calls_per_sample,
    is_cold,
    sets_of,
)
from pabench.timing.sampler import Samples, Warmth, sample, warm_up

ROOM = 0.9
"""Part of the free memory that a cell may take."""
HIDDEN_NS = 2e6
"""The host may wait so much longer than the events say, for launches and queues."""
PAUSE_S = 1.0
"""Between two attempts at a cell whose clock moved."""
WARM_SECONDS = 5.0
"""A clock that has not settled by then is measured as it is."""
JUDGED_SETS = 3
"""Sets whose outputs are judged after timing."""


class Instruments(Protocol):
    """What a measurement asks of the device; ``Stopwatch`` on CUDA."""

    timer: Any
    smi: Any
    persisting: Any

    def tensors(self, case: Case, turn: int) -> Tensors:
        """Return the inputs of a turn, on the host."""

    def resident_tensors(self, case: Case, turn: int) -> Tensors:
        """Return them with the cache on the device."""

    def sample(
        self,
        work: Callable[[], None],
        *,
        hot: bool,
        graph: bool,
        gated: bool,
        before: Callable[[], None] = lambda: None,
    ) -> Sample:
        """Time ``work`` once, some time behind ``before``."""

    def poison(self, array: Any) -> None:
        """Queue NaN over an array of results."""

    def flush(self) -> None:
        """Queue a read that empties the cache."""

    def probe(self, between: Callable[[], None] | None) -> L2Probe:
        """Return what the cache still holds after ``between``."""

    @property
    def event_floor_ns(self) -> float:
        """Time of nothing."""

    def trim(self) -> None:
        """Give memory back."""


def device_times(
    cell: Cell, backend: Backend, device: Device, stopwatch: Instruments
) -> tuple[dict[str, Any], tuple[AttentionOutput, ...]]:
    """Return times by name, with ``timing``, and outputs of plans that were timed.

    Times are ``plan_ns``, ``run_ns``, ``PREPARE`` where it is apart, and ``CYCLES`` where the clock is known.
    ``run_ns`` are samples of one call, each the mean over the calls of a sample.  ``timing`` says how it was
    measured: ``judged`` names the set of each output.

    Raises:
        Unsupported: the GPU has not the memory.
    """
    policy = cell.l2 or ROTATE
    traffic = cell.traffic()
    l2_bytes = stopwatch.timer.l2_bytes
    sets = sets_of(policy, traffic.total_bytes, l2_bytes)
    _check_room(cell, sets, stopwatch.timer.free_bytes())
    run = _Measurement(
        case=cell.case(cell.batch.kv_lens),
        backend=backend,
        device=device,
        stopwatch=stopwatch,
        policy=policy,
        sets=sets,
    )
    figures, outputs = run.all()
    run.plans.clear()
    stopwatch.trim()
    cold = {FLUSH: True, HOT: False}.get(policy, is_cold(traffic.total_bytes, l2_bytes, sets))
    figures["timing"]["cold"] = cold
    return figures, outputs


@dataclass(slots=True, kw_only=True)
class _Measurement:
    """One cell on one device."""

    case: Case
    backend: Backend
    device: Device
    stopwatch: Instruments
    policy: str
    sets: int
    plans: list[Any] = field(default_factory=list)
    _mhz: list[float | None] = field(default_factory=list)
    _waited: list[bool] = field(default_factory=list)

    def all(self) -> tuple[dict[str, Any], tuple[AttentionOutput, ...]]:
        watch, backend = self.stopwatch, self.backend
        reset = watch.persisting.reset()
        plan_ns = self._plan()
        first = watch.sample(lambda: backend.run(self.plans[0]), hot=False, graph=False, gated=False)
        captures = bool(getattr(backend, "captures", False))
        calls = 1 if self.policy == FLUSH else self._calls(first.device_ns, graph=captures)
        # only a backend that says so queues all its work where a capture sees it: what is not seen takes no
        # time
        replay = watch.timer.capture(self._turn(calls)) if captures else None
        if captures and replay is None:
            calls = 1 if self.policy == FLUSH else self._calls(first.device_ns, graph=False)
        work, graph = replay or self._turn(calls), replay is not None
        # work that waits for the device would wait for the gate: seen once, and not gated then
        hot = self.policy == HOT
        gated = watch.sample(work, hot=hot, graph=graph, gated=True).held

        def once() -> float:
            found = watch.sample(work, hot=hot, graph=graph, gated=gated, before=self._poison)
            self._mhz.append(found.mhz)
            self._waited.append(found.host_ns > 2 * found.device_ns + HIDDEN_NS)
            return found.device_ns / calls

        before, held = watch.smi.read(), watch.timer.held_bytes()
        (taken, warmth), again = taken_twice(
            lambda: self._taken(once), lambda found: self._mhz, lambda: time.sleep(PAUSE_S)
        )
        after, grown = watch.smi.read(), watch.timer.held_bytes() - held
        # before anything else runs, that might write what the samples left out
        judged, outputs = self._fetched()
        low, high = taken.interval_ns
        timing = {
            "method": "graph" if graph else "stream",
            "l2": self.policy,
            "gated": gated,
            "calls": calls,
            "sets": self.sets,
            "stopped": taken.stopped,
            "median_low_ns": low,
            "median_high_ns": high,
            "event_floor_ns": watch.event_floor_ns,
            "sample_ns": taken.median_ns * calls,
            "warm_up_calls": warmth.calls,
            "warm_up_settled": warmth.settled,
            "sm_mhz": list(self._mhz),
            "clock_strays": sum(strays(self._mhz)),
            "clock_unstable": unstable(self._mhz),
            "measured_again": again,
            "host_waited_longer": sum(self._waited),
            "allocated_bytes": max(0, grown),
            "poisoned": self._poisons,
            "judged": judged,
            "persisting_reset": reset,
            "persisting_bytes": watch.persisting.room(),
            "probe": self._probe(),
            "before": None if before is None else before.moving(),
            "after": None if after is None else after.moving(),
        }
        times: dict[str, Any] = {"plan_ns": plan_ns, "run_ns": list(taken.values_ns), "timing": timing}
        if all(self._mhz):
            rates = zip(taken.values_ns, self._mhz, strict=True)
            times[CYCLES] = [spent_ns * float(mhz or 0.0) / 1e3 for spent_ns, mhz in rates]
        if LAYERS in backend.capabilities.operations:
            times[PREPARE] = _prepare_ns(layered(backend), self.plans[0], watch, calls)
        return times, outputs

    @property
    def _poisons(self) -> bool:
        """Whether the backend shows where its results are."""
        return hasattr(self.backend, "outputs")

    def _poison(self) -> None:
        """Put NaN where the results of all sets are: what is not written again is seen when it is judged."""
        if self._poisons:
            for plan in self.plans:
                for array in self.backend.outputs(plan):  # type: ignore[attr-defined]
                    self.stopwatch.poison(array)

    def _fetched(self) -> tuple[list[int], tuple[AttentionOutput, ...]]:
        """Return some of the sets, drawn, with what the last sample left in them."""
        rng = np.random.default_rng([self.case.seed, len(self.plans)])
        judged = sorted(rng.choice(self.sets, min(JUDGED_SETS, self.sets), replace=False).tolist())
        return judged, tuple(self.backend.fetch(self.plans[turn]) for turn in judged)

    def _plan(self) -> list[int]:
        """Plan each set, with queries, table and pages of its own; return the times."""
        resident = getattr(self.backend, "takes_resident", False)
        make = self.stopwatch.resident_tensors if resident else self.stopwatch.tensors
        plan_ns = []
        for turn in range(self.sets):
            tensors = make(self.case, turn)  # a cache of its own: there already, or copied there by the plan
            start = time.perf_counter_ns()
            self.plans.append(self.backend.plan(tensors))
            self.device.synchronize()
            plan_ns.append(time.perf_counter_ns() - start)
        for plan in self.plans:  # compilers and lazy loading are done before anything is timed or captured
            self.backend.run(plan)
        self.device.synchronize()
        return plan_ns

    def _calls(self, call_ns: float, *, graph: bool) -> int:
        return calls_per_sample(call_ns, self.sets, most=MAX_CALLS if graph else GATED_CALLS)

    def _turn(self, calls: int) -> Callable[[], None]:
        def turn() -> None:
            for call in range(calls):
                self.backend.run(self.plans[call % self.sets])

        return turn

    def _taken(self, once: Callable[[], float]) -> tuple[Samples, Warmth]:
        warmth = warm_up(once, limit_seconds=WARM_SECONDS, mhz=lambda: self._mhz[-1])
        self._mhz.clear()
        self._waited.clear()
        return sample(once), warmth

    def _probe(self) -> dict[str, Any] | None:
        """Whether the policy did to the cache what it says, None where hot and cold cannot be told apart."""
        between: Callable[[], None] | None = None
        if self.policy == FLUSH:
            between = self.stopwatch.flush
        elif self.policy == ROTATE:

            def others() -> None:
                for plan in self.plans[1:] or self.plans:
                    self.backend.run(plan)

            between = others
        found = self.stopwatch.probe(between)
        if not found.tells:
            return None
        return {
            "hot_ns": found.hot_ns,
            "dram_ns": found.dram_ns,
            "after_ns": found.after_ns,
            "cold": found.cold,
        }


def _prepare_ns(backend: LayeredBackend, plan: Any, stopwatch: Instruments, calls: int) -> list[float]:
    def turn() -> None:
        for _ in range(calls):
            backend.prepare(plan)

    replay = stopwatch.timer.capture(turn) if getattr(backend, "captures", False) else None

    def once() -> float:
        found = stopwatch.sample(replay or turn, hot=False, graph=replay is not None, gated=False)
        return found.device_ns / calls

    warm_up(once)
    return list(sample(once).values_ns)


def _check_room(cell: Cell, sets: int, free_bytes: int) -> None:
    needed = sets * cell.memory().slots * cell.problem.token_bytes
    if needed > ROOM * free_bytes:
        hint = "" if sets == 1 else f" in {sets} sets; --l2 {FLUSH} needs one"
        raise Unsupported(
            f"{needed / 2**30:.1f} GiB of cache{hint}, the GPU has {free_bytes / 2**30:.1f} GiB free"
        )
