# SPDX-License-Identifier: Apache-2.0
"""A cell on a GPU that is a model: a clock and an L2 with known answers, and what goes wrong there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pabench.activities.sweep import device_times as measured
from pabench.activities.sweep.bulk import bulk_tensors
from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.device_times import device_times
from pabench.activities.sweep.doubts import doubts
from pabench.activities.sweep.expect import against_ceilings
from pabench.activities.sweep.line import blank_line
from pabench.activities.sweep.stopwatch import Sample
from pabench.errors import Unsupported
from pabench.judge.traffic import decode_traffic
from pabench.problem import Batch, Case, Problem
from pabench.problem.tensors import Tensors
from pabench.run.figures import record_of_flat
from pabench.run.record import Status
from pabench.subjects.backends.base import AttentionOutput
from pabench.timing.cold import POLICIES, L2Probe
from pabench.timing.gpus import GPUS
from pabench.timing.sampler import warm_up

PROBLEM = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=64, page_size=16, dtype="bfloat16")
CELL = Cell(
    backend="modelled",
    device="cuda",
    gpu="h200",
    problem=PROBLEM,
    batch=Batch(kv_lens=(40, 3, 77)),
    lengths="list:40,3,77",
    seed=0,
    kv_layout="NHD",
    interleaved=False,
    l2="cold-rotate",
)
BYTES = decode_traffic(PROBLEM, CELL.batch.kv_lens).total_bytes
L2_BYTES = 2 * BYTES
MEMORY_GBPS, CACHE_GBPS = 1.0, 4.0
COLD_NS, HOT_NS = BYTES / MEMORY_GBPS, BYTES / CACHE_GBPS
LAUNCH_NS = 5000.0
FLOOR_NS = 2000.0


class Gpu:
    """A clock, and a cache that keeps what was read last."""

    def __init__(self) -> None:
        self.now_ns = 0.0
        self._cached: OrderedDict[Any, int] = OrderedDict()
        self._flushes = 0

    def read(self, what: Any, size: int) -> None:
        """Take the time of one read."""
        hit = what in self._cached
        self.now_ns += size / (CACHE_GBPS if hit else MEMORY_GBPS)
        self._cached[what] = size
        self._cached.move_to_end(what)
        while sum(self._cached.values()) > L2_BYTES and len(self._cached) > 1:
            self._cached.popitem(last=False)

    def flush(self) -> None:
        """Read what nobody reads again."""
        for _ in range(8):
            self._flushes += 1
            self.read(("flush", self._flushes), L2_BYTES)


class Watch:
    """Implements ``Instruments`` on the model."""

    def __init__(self, gpu: Gpu, *, mhz: Iterator[float | None] | None = None) -> None:
        self.gpu, self.mhz, self.held = gpu, mhz or repeat(1980.0), 0
        self.synchronizes = False
        self.timer = SimpleNamespace(
            l2_bytes=L2_BYTES,
            free_bytes=lambda: 2**30,
            held_bytes=lambda: self.held,
            capture=lambda work: work,
        )
        self.smi = SimpleNamespace(read=lambda: None)
        self.kept = self.resets = 0
        self.persisting = SimpleNamespace(reset=self.reset, room=lambda: self.kept)
        self.event_floor_ns = FLOOR_NS

    def reset(self) -> bool:
        self.resets += 1
        self.kept = 0
        return True

    def tensors(self, case: Case, turn: int) -> Tensors:
        return bulk_tensors(case, turn=turn)

    resident_tensors = tensors

    def poison(self, array: Any) -> None:
        array.fill(np.nan)

    def sample(
        self,
        work: Callable[[], None],
        *,
        hot: bool,
        graph: bool,
        gated: bool,
        before: Callable[[], None] = lambda: None,
    ) -> Sample:
        before()
        (work if hot else self.gpu.flush)()
        began = self.gpu.now_ns
        work()
        spent = self.gpu.now_ns - began
        held = gated and not self.synchronizes
        if not held and not graph:
            spent += LAUNCH_NS
        return Sample(device_ns=spent, host_ns=spent, held=held or not gated, mhz=next(self.mhz))

    def flush(self) -> None:
        self.gpu.flush()

    def probe(self, between: Callable[[], None] | None) -> L2Probe:
        def read() -> float:
            began = self.gpu.now_ns
            self.gpu.read("probe", 1000)
            return self.gpu.now_ns - began

        def after(work: Callable[[], None] | None) -> float:
            read()
            if work is not None:
                work()
            return read()

        return L2Probe(hot_ns=after(None), dram_ns=after(self.gpu.flush), after_ns=after(between))

    def trim(self) -> None:
        pass


class Backend:
    """Reads the pages of its plan, and nothing else."""

    captures = True
    capabilities = SimpleNamespace(operations=frozenset())
    seen: Callable[[int], Any] = staticmethod(lambda turn: turn)

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.planned, self.ran = gpu, list[Tensors](), list[int]()
        self.outs: dict[int, Any] = {}

    def plan(self, tensors: Tensors) -> int:
        self.planned.append(tensors)
        return len(self.planned) - 1

    def run(self, plan: int) -> None:
        self.ran.append(plan)
        self.gpu.read(self.seen(plan), BYTES)
        self.write(plan)

    def write(self, plan: int) -> None:
        self.outs.setdefault(plan, np.empty((3, 4, 64))).fill(plan)

    def outputs(self, plan: int) -> tuple[Any, ...]:
        return (self.outs[plan],) if plan in self.outs else ()

    def fetch(self, plan: int) -> AttentionOutput:
        return AttentionOutput(out=self.outs[plan].copy(), lse=None)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Warm up by calls and not by seconds; keep the pauses."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    monkeypatch.setattr(
        measured, "warm_up", lambda once, **options: warm_up(once, seconds=0.0, limit_seconds=0.0)
    )
    return pauses


def timed(watch: Watch, backend: Backend, cell: Cell = CELL) -> tuple[dict[str, Any], Any]:
    device: Any = SimpleNamespace(synchronize=lambda: None)
    kernel: Any = backend
    return device_times(cell, kernel, device, watch)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("captures", [True, False])
def test_device_times_of_each_policy_are_those_of_the_model(policy: str, captures: bool) -> None:
    gpu = Gpu()
    backend, watch = Backend(gpu), Watch(gpu)
    backend.captures = captures
    found, outputs = timed(watch, backend, replace(CELL, l2=policy))
    timing = found["timing"]
    assert set(np.round(found["run_ns"], 6)) == {HOT_NS if policy == "hot" else COLD_NS}
    assert (timing["l2"], timing["cold"]) == (policy, policy != "hot")
    assert timing["probe"]["cold"] is (policy != "hot")
    assert timing["sets"] == (11 if policy == "cold-rotate" else 1)  # 5 caches of 2 sets, and the one in use
    assert (timing["calls"] == 1) is (policy == "cold-flush")
    assert timing["method"] == ("graph" if captures else "stream")
    assert timing["gated"]
    assert doubts(timing, samples=len(found["run_ns"])) == []
    assert [int(output.out[0, 0, 0]) for output in outputs] == timing["judged"]
    assert len(timing["judged"]) == min(3, timing["sets"])


def test_device_times_give_each_set_its_own_queries_and_table() -> None:
    gpu = Gpu()
    backend = Backend(gpu)
    timed(Watch(gpu), backend)
    assert len({tensors.q.tobytes() for tensors in backend.planned}) == 11
    assert len({tensors.layout.block_table.tobytes() for tensors in backend.planned}) == 11


def test_device_times_see_sets_that_are_one() -> None:
    gpu = Gpu()
    backend = Backend(gpu)
    backend.seen = lambda turn: "the same pages"
    found, _ = timed(Watch(gpu), backend)
    assert max(found["run_ns"]) < COLD_NS / 2
    assert not found["timing"]["probe"]["cold"]
    assert doubts(found["timing"], samples=20) == ["the cache was not cold"]


def test_device_times_of_who_synchronizes_are_not_gated_and_say_so() -> None:
    gpu = Gpu()
    backend, watch = Backend(gpu), Watch(gpu)
    backend.captures, watch.synchronizes = False, True
    found, _ = timed(watch, backend)
    calls = found["timing"]["calls"]
    assert set(np.round(found["run_ns"], 6)) == {round(COLD_NS + LAUNCH_NS / calls, 6)}
    assert doubts(found["timing"], samples=20) == ["the backend synchronizes: launches are in the time"]


def test_device_times_say_where_a_call_allocates() -> None:
    gpu = Gpu()
    watch = Watch(gpu)

    class Allocates(Backend):
        def run(self, plan: int) -> None:
            super().run(plan)
            watch.held += 4096

    found, _ = timed(watch, Allocates(gpu))
    assert doubts(found["timing"], samples=20) == ["a timed call allocates memory"]


def test_device_times_keep_samples_whose_clock_strays(no_pauses: list[float]) -> None:
    gpu = Gpu()
    rates = iter([1980.0] * 10 + [1500.0] * 2 + [1980.0] * 1000)
    found, _ = timed(Watch(gpu, mhz=rates), Backend(gpu))
    timing = found["timing"]
    assert (timing["clock_strays"], timing["clock_unstable"], timing["measured_again"]) == (2, False, False)
    assert len(timing["sm_mhz"]) == len(found["run_ns"]) == 20
    assert no_pauses == []


def test_device_times_measure_once_more_where_the_clock_moved(no_pauses: list[float]) -> None:
    gpu = Gpu()
    rates = iter(([1980.0] * 3 + [1500.0] * 2) * 200)
    found, _ = timed(Watch(gpu, mhz=rates), Backend(gpu))
    timing = found["timing"]
    assert (timing["clock_unstable"], timing["measured_again"], no_pauses) == (True, True, [measured.PAUSE_S])
    assert len(timing["sm_mhz"]) == len(found["run_ns"]) == 20
    assert "unstable: the clock moved by more than 5 %" in doubts(timing, samples=20)


def test_device_times_say_where_a_sample_is_nearly_nothing() -> None:
    gpu = Gpu()
    watch = Watch(gpu)
    watch.event_floor_ns = COLD_NS / 4
    found, _ = timed(watch, Backend(gpu), replace(CELL, l2="cold-flush"))
    assert doubts(found["timing"], samples=20) == ["shorter than 5 empty measurements"]


@pytest.mark.parametrize("stops_after", [11, 60])
def test_device_times_see_a_kernel_that_stops_writing(stops_after: int) -> None:
    """After the first call of each set, or in the midst of the samples: its results are those of before."""
    gpu = Gpu()

    class Stops(Backend):
        def write(self, plan: int) -> None:
            if len(self.ran) <= stops_after:
                super().write(plan)

    backend = Stops(gpu)
    found, outputs = timed(Watch(gpu), backend)
    assert len(backend.ran) > 200
    assert found["timing"]["poisoned"]
    assert all(np.isnan(output.out).all() for output in outputs)


def test_device_times_say_where_results_cannot_be_poisoned() -> None:
    gpu = Gpu()

    class Hidden(Backend):
        outputs = property()

    assert not hasattr(Hidden(gpu), "outputs")
    found, outputs = timed(Watch(gpu), Hidden(gpu))
    assert not found["timing"]["poisoned"]
    assert not any(np.isnan(output.out).any() for output in outputs)


def test_device_times_fetch_before_the_probe_runs_the_sets_again() -> None:
    gpu = Gpu()
    watch, order = Watch(gpu), list[str]()
    probe = watch.probe

    class Fetched(Backend):
        def fetch(self, plan: int) -> AttentionOutput:
            order.append("fetch")
            return super().fetch(plan)

    def probed(between: Callable[[], None] | None) -> L2Probe:
        order.append("probe")
        return probe(between)

    watch.probe = probed  # type: ignore[method-assign]
    timed(watch, Fetched(gpu))
    assert order == ["fetch"] * 3 + ["probe"]


def test_device_times_take_lines_that_stay_away_before_the_cell_and_say_who_keeps_them() -> None:
    gpu = Gpu()
    watch = Watch(gpu)
    watch.kept = 4096  # of whoever was here before
    found, _ = timed(watch, Backend(gpu))
    assert (watch.resets, found["timing"]["persisting_reset"], found["timing"]["persisting_bytes"]) == (
        1,
        True,
        0,
    )
    assert doubts(found["timing"], samples=20) == []

    class Keeps(Backend):
        def plan(self, tensors: Tensors) -> int:
            watch.kept = 8192
            return super().plan(tensors)

    found, _ = timed(watch, Keeps(gpu))
    assert found["timing"]["persisting_bytes"] == 8192
    assert doubts(found["timing"], samples=20) == ["the backend keeps lines in the L2 cache"]


def test_device_times_in_cycles_of_the_clock_of_each_sample() -> None:
    gpu = Gpu()
    rates = iter([1980.0] * 10 + [1500.0] * 2 + [1980.0] * 1000)
    found, _ = timed(Watch(gpu, mhz=rates), Backend(gpu))
    expected = [COLD_NS * mhz / 1e3 for mhz in found["timing"]["sm_mhz"]]
    assert found["run_cycles"] == pytest.approx(expected)
    assert len(set(np.round(found["run_cycles"]))) == 2
    blind, _ = timed(Watch(gpu, mhz=repeat(None)), Backend(gpu))
    assert "run_cycles" not in blind


def test_device_times_need_room_for_the_sets() -> None:
    gpu = Gpu()
    watch = Watch(gpu)
    watch.timer.free_bytes = lambda: 3 * BYTES
    with pytest.raises(Unsupported, match="GiB of cache in 11 sets; --l2 cold-flush needs one, the GPU has"):
        timed(watch, Backend(gpu))
    assert timed(watch, Backend(gpu), replace(CELL, l2="cold-flush"))[0]["timing"]["sets"] == 1


def line_of(read_gbps: float, policy: str = "cold-rotate") -> dict[str, Any]:
    """A cell of 1 GB/s held to a ceiling."""
    timing = {"l2": policy, "cold": True, "host_waited_longer": 0, "method": "graph"}
    line = {
        **blank_line(replace(CELL, l2=policy)),
        "status": Status.PASSED,
        "run_ns": [BYTES] * 5,
        "achieved_gbps": 1.0,
        "timing": timing,
    }
    line["provenance"] |= {"run_ns": "measured", "achieved_gbps": "measured"}
    ceilings = {"read_gbps": read_gbps, "launch_floor_ns": None}
    return {**line, **against_ceilings(CELL, line, GPUS["h200"], ceilings)}


def test_bandwidth_above_the_ceiling_is_refused_and_its_samples_are_kept() -> None:
    line = line_of(1 / 1.031)
    record = record_of_flat(line)
    assert record.status == Status.INCONCLUSIVE
    assert record.reason is not None
    assert record.reason.startswith("no speed: 103.1% of the measured read ceiling, must be at most 103%")
    assert record.figures["run_ns"].value is record.figures["achieved_gbps"].value is None
    assert record.details["timing"]["refused_run_ns"] == [BYTES] * 5


def test_bandwidth_up_to_the_ceiling_stands() -> None:
    line = line_of(1 / 1.029)
    assert (line["status"], round(line["read_fraction"], 3), line["flags"]) == ("passed", 1.029, [])


def test_bandwidth_of_a_hot_cache_is_not_held_to_memory() -> None:
    line = line_of(0.2, "hot")
    assert (line["status"], line["flags"]) == ("passed", [])
    assert "read_fraction" not in line
