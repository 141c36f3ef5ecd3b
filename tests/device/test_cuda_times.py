# SPDX-License-Identifier: Apache-2.0
"""Times of a CUDA device, up to the launch: graphs, cold sets, ceilings, judgement of what was timed."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.activities.sweep import operations
from pabench.activities.sweep.bulk import (
    bulk_tensors,
    judge_sample,
    pages_of,
    sampled,
    tile_nothing,
    tile_on_host,
    turned,
)
from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.grid_table import operation_text
from pabench.activities.sweep.operation import UNITS, Operation, operation_from_dict
from pabench.activities.sweep.operations import OPERATIONS, operation_counts, operation_times
from pabench.activities.sweep.operations_judged import PART, run_operation, why_wrong
from pabench.activities.sweep.run_cell import run_cell
from pabench.activities.sweep.stopwatch import PROBES, Stopwatch
from pabench.activities.sweep.times import Speed
from pabench.cli.main import run
from pabench.device.checked import CheckedDevice
from pabench.device.cuda import CudaDevice
from pabench.device.cuda_timer import CudaTimer
from pabench.errors import DeviceFault
from pabench.kernels.append import append_tokens
from pabench.kernels.ceilings import CeilingKernels, CeilingShape
from pabench.problem import Batch, Case, Problem
from pabench.problem.dtypes import BFLOAT16, DTYPES, encode
from pabench.run.read import read_run
from pabench.subjects.backends.base import AttentionOutput
from pabench.subjects.backends.rawkernel import RawKernelBackend
from pabench.subjects.process.tasks import run_task
from pabench.timing.gpus import GPUS
from tests.support.standin_support import cupy as cupy
from tests.support.standin_support import tiny_grid

PROBLEM = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=64, page_size=16, dtype="bfloat16")
LENGTHS = (40, 3, 77)


def cell(problem: Problem = PROBLEM, kv_lens: tuple[int, ...] = LENGTHS, backend: str = "rawkernel") -> Cell:
    return Cell(
        backend=backend,
        device="cuda",
        gpu="h200",
        problem=problem,
        batch=Batch(kv_lens=kv_lens),
        lengths="fixed:len=40",
        seed=0,
        kv_layout="NHD",
        interleaved=False,
    )


def measured(backend: Any, device: CudaDevice, *, of: Cell | None = None) -> dict[str, Any]:
    speed = Speed(task=partial(run_task, subject=backend, device=device), checked=False, gpu="h200")
    found = run_cell(of or cell(), backend, speed, GPUS["h200"])
    return found.record.flat()


def test_cuda_device_leaves_its_own_arrays_where_they_are(cupy: Any) -> None:
    device = CudaDevice()
    there = device.to_device(np.arange(3))
    assert device.to_device(there) is there


def test_cuda_timer_replays_what_it_captured(cupy: Any) -> None:
    device, timer = CudaDevice(), CudaTimer()
    data = device.zeros((64,), np.dtype(np.uint32))
    kernels = CeilingKernels(device, CeilingShape(lanes=4, blocks=1))
    replay = timer.capture(lambda: kernels.fill(data))
    assert replay is not None
    assert not device.to_host(data).any()  # a capture does nothing
    elapsed = timer.elapsed(replay, graph=True)
    assert device.to_host(data).all()
    assert 0 < elapsed.device_ns < elapsed.host_ns


def test_cuda_timer_leaves_the_lead_out_of_the_time(cupy: Any) -> None:
    device, timer = CudaDevice(), CudaTimer()
    order: list[str] = []
    timer.elapsed(lambda: order.append("work"), lead=lambda: order.append("lead"), graph=False)
    assert order == ["lead", "work"]
    kernels = CeilingKernels(device, CeilingShape(lanes=4, blocks=64))
    data = device.zeros((2**16,), np.dtype(np.uint32))
    elapsed = timer.elapsed(lambda: None, lead=lambda: kernels.read(data), graph=True)
    assert elapsed.device_ns < elapsed.host_ns / 2


def test_cuda_timer_says_what_cannot_be_captured_and_works_on(cupy: Any) -> None:
    device, timer = CudaDevice(), CudaTimer()

    def wrong() -> None:
        raise ValueError

    assert timer.capture(wrong) is None
    assert timer.capture(lambda: device.synchronize()) is None  # a wait is no work of a graph
    assert timer.capture(lambda: None) is not None


def test_cuda_timer_reports_a_fault(cupy: Any) -> None:
    timer = CudaTimer()
    cupy.cuda._faults.append("an illegal memory access")
    with pytest.raises(DeviceFault, match="the CUDA device reports: cudaErrorLaunchFailure: an illegal"):
        timer.elapsed(lambda: None, graph=False)


def test_cuda_times_a_cell_as_a_graph_out_of_a_cold_cache(cupy: Any) -> None:
    device = CudaDevice()
    line = measured(RawKernelBackend(device), device)
    assert line["status"] == "passed", line["reason"]
    timing = line["timing"]
    assert (timing["method"], timing["cold"]) == ("graph", True)
    assert timing["sets"] == 1  # 61 KB of traffic are many caches of 4 KiB
    assert not timing["gated"]  # the stub is done with a launch before it returns
    assert len(timing["sm_mhz"]) == len(line["run_ns"])
    assert min(timing["sm_mhz"]) > 0
    assert timing["event_floor_ns"] < timing["sample_ns"]
    assert timing["calls"] % timing["sets"] == 0
    assert len(line["run_ns"]) >= 3
    assert (
        timing["median_low_ns"]
        <= sorted(line["run_ns"])[len(line["run_ns"]) // 2]
        <= timing["median_high_ns"]
    )
    assert line["provenance"]["run_ns"] == line["provenance"]["achieved_gbps"] == "measured"
    assert line["provenance"]["plan_ns"] == "host"
    assert line["provenance"]["prepare_ns"] == line["provenance"]["run_cycles"] == "measured"
    assert len(line["run_cycles"]) == len(line["run_ns"])
    assert timing["poisoned"]
    assert line["run_token_heads"] == sum(LENGTHS) * 4
    assert 0 < timing["sample_max_ratio"] <= 1


def test_cuda_times_rotate_sets_where_one_would_stay_in_the_cache(
    cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cupy.cuda.PROPERTIES, "l2CacheSize", 2**15)
    device = CudaDevice()
    planned: list[Any] = []
    ran: list[Any] = []

    class Watched(RawKernelBackend):
        def plan(self, tensors: Any) -> Any:
            planned.append(super().plan(tensors))
            return planned[-1]

        def run(self, plan: Any) -> None:
            ran.append(plan)
            super().run(plan)

    line = measured(Watched(device), device)
    sets = line["timing"]["sets"]
    assert sets == 4  # ceil(5 * 32,768 / 61,568) + 1
    assert len(line["plan_ns"]) == sets
    rotated = planned[-sets:]
    assert len({plan.launches[0].args[1].data.ptr for plan in rotated}) == sets
    timed = ran[: -PROBES * (sets - 1)]  # the others push the probe out
    turn = timed[-line["timing"]["calls"] :]
    assert [id(plan) for plan in turn[:sets]] == [id(plan) for plan in rotated]


def test_cuda_times_do_not_capture_who_does_not_say_so(cupy: Any) -> None:
    class Silent(RawKernelBackend):
        captures = False

    device = CudaDevice()
    line = measured(Silent(device), device)
    assert (line["status"], line["timing"]["method"]) == ("passed", "stream")


@pytest.mark.parametrize("resident", [True, False])
def test_cuda_times_copy_gigabytes_only_where_they_must(resident: bool, cupy: Any) -> None:
    given: list[Any] = []

    class Watched(RawKernelBackend):
        takes_resident = resident

        def plan(self, tensors: Any) -> Any:
            given.append(tensors.pool.storage)
            return super().plan(tensors)

    device = CudaDevice()
    line = measured(Watched(device), device)
    assert line["status"] == "passed", line["reason"]
    assert isinstance(given[-1], cupy.ndarray) is resident


def test_cuda_times_need_room(cupy: Any) -> None:
    device = CudaDevice()
    line = measured(RawKernelBackend(device), device, of=cell(kv_lens=(2**19,)))
    assert line["status"] == "unsupported"
    assert line["reason"] == "0.2 GiB of cache, the GPU has 0.2 GiB free"


class LargeOnly(RawKernelBackend):
    """Right in every quick check, wrong in the last sequence of what is timed."""

    damage = 1.0
    place: tuple[int, ...] = (2, 3, 5)
    checking = True

    def plan(self, tensors: Any) -> Any:
        self.checking = tensors.case.poison == "nan"
        return super().plan(tensors)

    def fetch(self, plan: Any) -> AttentionOutput:
        output = super().fetch(plan)
        if not self.checking:
            output.out[self.place] = encode(np.array(self.damage), BFLOAT16)
        return output


@pytest.mark.parametrize(
    ("place", "damage", "text"),
    [((2, 3, 5), 1.0, "sequence 0, query head 1, dim 5"), ((0, 0, 0), np.nan, "1 of 768 outputs")],
)
def test_cuda_times_judge_what_was_timed(
    cupy: Any, place: tuple[int, ...], damage: float, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LargeOnly, "place", place)
    monkeypatch.setattr(LargeOnly, "damage", damage)
    device = CudaDevice()
    line = measured(LargeOnly(device), device)
    assert line["status"] == "failed"
    assert text in line["reason"]
    assert line["check"]["passed"]
    assert line["run_ns"] is None


KINDS: dict[str, dict[str, Any]] = {
    "prefill": {"q_len": 24},
    "window": {"problem": replace(PROBLEM, window=20)},
    "e4m3": {"problem": replace(PROBLEM, kv_dtype="e4m3")},
    "shared": {"shared_pages": 2, "batch": Batch(kv_lens=(40, 35, 77))},
    "latent": {
        "problem": Problem(
            num_qo_heads=4,
            num_kv_heads=1,
            head_dim=96,
            head_dim_v=64,
            page_size=16,
            dtype="bfloat16",
            latent=True,
            sm_scale=0.1,
        ),
        "q_len": 5,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_cuda_times_of_calls_that_are_no_plain_decode(
    kind: str, cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, device = replace(cell(), **KINDS[kind]), CudaDevice()
    line = measured(RawKernelBackend(device), device, of=asked)
    assert line["status"] == "passed", line["reason"]
    assert line["provenance"]["run_ns"] == "measured"
    assert 0 < line["timing"]["sample_max_ratio"] <= 1
    case = asked.case(asked.batch.kv_lens)
    assert line["dram_bytes"] == asked.traffic().total_bytes
    assert line["run_token_heads"] == 4 * sum(
        kv_len * q_len for kv_len, q_len in zip(case.batch.kv_lens, case.batch.query_lens, strict=True)
    )
    # the last row of the longest sequence is judged, whatever the kind
    monkeypatch.setattr(LargeOnly, "place", (case.batch.num_query_tokens - 1, 3, 7))
    wrong = measured(LargeOnly(device), device, of=asked)
    assert wrong["status"] == "failed", wrong["reason"]
    assert wrong["check"]["passed"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kv_dtype": "e4m3-token-head"}, "format e4m3-token-head"),
        ({"head_dim_v": 32}, "K and V of different"),
    ],
)
def test_cuda_times_refuse_caches_of_which_no_block_can_be_repeated(
    changes: dict[str, Any], text: str, cupy: Any
) -> None:
    device = CudaDevice()
    line = measured(RawKernelBackend(device), device, of=replace(cell(), problem=replace(PROBLEM, **changes)))
    assert line["status"] == "unsupported"
    assert line["reason"].startswith(f"no timed inputs with {text}")


SIZES = {"append": 300, "merge": 70, "gather": 100, "copy-pages": 20}


def asked(name: str, *, damage: Any = None) -> tuple[Any, str | None]:
    """Times of an operation, and what the judge says of what it left."""
    device = CudaDevice()
    times, left = operation_times(device, Stopwatch(device), name, SIZES[name])
    if damage is not None:
        damage(left[0])
    return times, why_wrong(name, SIZES[name], left)


@pytest.mark.parametrize("name", OPERATIONS)
def test_cuda_times_of_operations_beside_attention_are_judged(name: str, cupy: Any) -> None:
    assert set(OPERATIONS) == set(UNITS) == set(SIZES)
    times, wrong = asked(name)
    assert wrong is None
    assert min(times) > 0

    def damaged(array: Any) -> None:
        array[0, 1, ..., 3] ^= 0x4000

    assert asked(name, damage=damaged)[1] is not None
    assert why_wrong(name, SIZES[name], None) is not None


def test_cuda_times_of_an_operation_that_stops_writing_are_none(
    cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    append = append_tokens

    def stops(*given: Any, **named: Any) -> None:
        ran.append(1)
        if len(ran) < 3:
            append(*given, **named)

    monkeypatch.setattr(operations, "append_tokens", stops)
    # neither captured, which would have the second call for good, nor written
    monkeypatch.setattr(CudaTimer, "capture", lambda self, work: None)
    assert str(asked("append")[1]).endswith("numbers that append left are wrong")


def of(name: str, size: int) -> Operation:
    return Operation(name=name, size=size, device="cuda")


@pytest.mark.parametrize(
    ("task", "status", "reason"),
    [
        (lambda given: 1 / 0, "crashed", "ZeroDivisionError: division by zero"),
        (lambda given: None, "crashed", "merge returned NoneType"),
        (lambda given: ([1.0], None), "failed", "merge left NoneType, must be 2 arrays"),
    ],
)
def test_operation_that_goes_wrong_has_a_reason_and_no_time(task: Any, status: str, reason: str) -> None:
    record = run_operation(of("merge", 40), lambda place, given: task(given), checked=False).record
    assert record.status == status
    assert str(record.reason).startswith(reason)
    assert set(record.figures) == {"moved_bytes"}
    assert operation_text(record.flat()).startswith(f"merge of 40 rows: {status}: {reason}")


def test_operation_of_which_no_times_come_back_has_none(cupy: Any) -> None:
    device = CudaDevice()
    _, left = operation_times(device, Stopwatch(device), "merge", 40)
    for times in ([], [float("nan")], None, [-1.0]):
        record = run_operation(of("merge", 40), lambda place, given: (times, left), checked=False).record  # noqa: B023
        assert (record.status, record.reason) == ("crashed", "merge gave no list of times")


def test_operations_move_what_their_arrays_hold() -> None:
    token = 2 * 8 * 128 * 2
    assert of("append", 10).moved_bytes == 10 * (2 * token + 8)
    assert of("copy-pages", 10).moved_bytes == 2 * 10 * 16 * token + 120
    assert of("merge", 10).moved_bytes == 10 * 3 * 32 * (256 + 4) + 2 * 10 * 4
    assert of("gather", 20).moved_bytes == 20 * 2 * token + 2 * 4


def test_operation_is_read_back_and_its_id_is_that_of_what_is_asked() -> None:
    one = replace(of("gather", 20), replicate=3)
    assert operation_from_dict(one.to_dict()) == one
    assert operation_from_dict(cell().to_dict()) is None
    assert one.id == f"{of('gather', 20).id}-3"
    assert len({of(name, size).id for name in UNITS for size in (20, 21)}) == 2 * len(UNITS)


@pytest.mark.parametrize("name", UNITS)
def test_operation_counts_are_exact_and_no_less_than_it_must_move(name: str) -> None:
    """Counted class: the same twice, and what must be read and written is."""
    device = CheckedDevice(count=True)
    asked = of(name, 3000)
    task = partial(run_counts, device)
    first, again = (run_operation(asked, task, checked=True).record for _ in range(2))
    assert first.status == "passed", first.reason
    assert first.figures == again.figures
    assert {figure.provenance for figure in first.figures.values()} == {"counted"}
    least = of(name, PART).moved_bytes / 32
    value = {key: figure.value for key, figure in first.figures.items()}
    assert value["counted_size"] == PART
    assert least <= value["distinct_sectors"] < 1.05 * least + 40
    assert value["distinct_sectors"] <= value["counted_load_sectors"] + value["counted_store_sectors"]


def run_counts(device: CheckedDevice, place: str, given: Any) -> Any:
    assert place.endswith(":operation_counts")
    return operation_counts(device, **given)


class Stops(RawKernelBackend):
    """Writes its results for the first plans of a cell, and then no more."""

    left = 30

    def run(self, plan: Any) -> None:
        self.left -= 1
        if self.left > 0:
            super().run(plan)


def test_cuda_times_of_a_kernel_that_stops_writing_are_none(cupy: Any) -> None:
    device = CudaDevice()
    backend = Stops(device)
    backend.captures = False
    line = measured(backend, device)
    assert line["status"] == "failed"
    assert line["reason"].endswith("(results were NaN before each sample)")
    assert line["check"]["passed"]
    assert line["run_ns"] is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [("NHD", False), ("HND", True)])
@pytest.mark.parametrize("features", [{}, {"sinks": (0.5, -1.0, 0.0, 2.0)}, {"window": 20, "soft_cap": 3.0}])
def test_bulk_samples_are_judged_right(
    dtype: str, layout: tuple[str, bool], features: dict[str, Any], cupy: Any
) -> None:
    problem = replace(PROBLEM, dtype=dtype, **features)
    case = Case(problem=problem, batch=Batch(kv_lens=LENGTHS), kv_layout=layout[0], interleaved=layout[1])
    tensors = bulk_tensors(case)
    backend = RawKernelBackend(CudaDevice())
    plan = backend.plan(tensors)
    backend.run(plan)
    output = backend.fetch(plan)
    verdict = judge_sample(tensors, output, backend)
    assert verdict.passed, verdict.text
    output.out[1, -1] = output.out[0, 0]
    assert not judge_sample(tensors, output, backend).passed


def test_bulk_turns_have_queries_and_tables_of_their_own(cupy: Any) -> None:
    case = Case(problem=PROBLEM, batch=Batch(kv_lens=LENGTHS))
    backend, first = RawKernelBackend(CudaDevice()), bulk_tensors(case)
    other = turned(first, 2)
    assert other.pool.storage is first.pool.storage
    assert not np.array_equal(other.layout.block_table, first.layout.block_table)
    plan = backend.plan(other)
    backend.run(plan)
    output = backend.fetch(plan)
    assert judge_sample(bulk_tensors(case, tile_nothing, turn=2), output, backend).passed
    assert not judge_sample(first, output, backend).passed


def test_bulk_sampled_sequences() -> None:
    assert sampled(LENGTHS) == (1, 2)
    assert sampled((5, 5, 5)) == (0, 2)
    assert sampled((7,)) == (0,)


@pytest.mark.parametrize("layout", [("NHD", False), ("HND", True), ("HND", False), ("NHD", True)])
def test_bulk_pages_are_known_without_reading_them_back(layout: tuple[str, bool], cupy: Any) -> None:
    case = Case(problem=PROBLEM, batch=Batch(kv_lens=(9000,)), kv_layout=layout[0], interleaved=layout[1])
    for tensors in (bulk_tensors(case), Stopwatch(CudaDevice()).resident_tensors(case, 0)):
        pages = np.array([17, 3, 560, 562], np.int32)
        for kind, view in enumerate((tensors.pool.k, tensors.pool.v)):
            found = pages_of(tensors, kind, pages, slice(1, None))
            there = np.asarray(view)[pages]
            np.testing.assert_array_equal(found, there[:, :, 1:] if layout[0] == "NHD" else there[:, 1:])


def test_bulk_repeats_the_block_to_the_end() -> None:
    block = np.arange(10, dtype=np.uint16)
    np.testing.assert_array_equal(tile_on_host(block, (5, 5)).ravel(), np.arange(25) % 10)


def test_bulk_pages_differ() -> None:
    tensors = bulk_tensors(Case(problem=PROBLEM, batch=Batch(kv_lens=(4096,))))
    pages = tensors.pool.storage.reshape(-1, 16 * 2 * 64)
    assert len(np.unique(pages, axis=0)) == len(pages)


def test_stopwatch_measures_the_ceilings(cupy: Any) -> None:
    hardware = Stopwatch(CudaDevice()).hardware()
    found = hardware["ceilings"]
    assert found["bytes"] == 64 * found["l2_bytes"] == 64 * 4096
    assert min(found[key] for key in ("read_gbps", "copy_gbps", "fill_gbps", "launch_floor_ns")) > 0
    assert found["read_gbps"] == max(row["read_gbps"] for row in found["shapes"])
    assert hardware["gpu"] == {"problem": "nvidia-smi is not installed"}
    assert hardware["device"] == {
        "name": "Stand-in 3000",
        "compute_capability": "9.0",
        "multiprocessors": 2,
        "l2_bytes": 4096,
        "memory_bytes": 2**29,
    }


def test_stopwatch_does_not_believe_a_copy_that_differs(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = CeilingKernels.copy

    def wrong(self: CeilingKernels, source: Any, target: Any) -> None:
        right(self, source, target)
        target[-1] += 1

    monkeypatch.setattr(CeilingKernels, "copy", wrong)
    with pytest.raises(DeviceFault, match="memory check failed"):
        Stopwatch(CudaDevice()).ceilings()


OURS = tuple(f"--backend={name}" for name in ("rawkernel", "rawkernel-mma", "torch-sdpa"))
"""Others are there or not."""


def sweep(folder: Path, *words: str) -> int:
    return run(["sweep", "--in-process", "--out", str(folder / "out"), *words])


def test_sweep_of_a_grid_expects_before_it_measures(cupy: Any, tmp_path: Path, capsys: Any) -> None:
    words = ("--grid", str(tiny_grid(tmp_path)), "--device", "cuda", *OURS)
    assert sweep(tmp_path, *words, "--budget", "0.001s") == 0
    begun = read_run(tmp_path / "out").record
    assert begun["not_run"] == 5  # each run gets on
    said = capsys.readouterr().out
    assert "5 of 6 cells not run: the budget is spent; go on with: pabench sweep " in said
    assert f"--resume --out {tmp_path / 'out'}" in said
    expected = begun["config"]["expected"]
    assert sorted(row["model"] for row in expected.values()) == ["tiny"] * 6
    assert sum(row["predicted_ns"] is not None for row in expected.values()) == 1
    assert run(["sweep", "--in-process", "--resume", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "measured ceilings: read" in shown
    done = read_run(tmp_path / "out")
    assert done.record["not_run"] == 0
    assert done.record["hardware"] == begun["hardware"]  # of the same run
    states = {row["backend"]: row["status"] for row in done.lines}
    assert states == {"rawkernel": "passed", "rawkernel-mma": "passed", "torch-sdpa": "unsupported"}
    for row in done.lines:
        assert row["expected_floor_ns"] == expected[row["id"]]["expected_floor_ns"]
        if row["status"] == "passed":
            assert row["read_fraction"] > 0
            assert row["floor_ns"] > row["expected_floor_ns"]
    page = (tmp_path / "out" / "report.html").read_text()
    for text in ("predicted before", "of read ceiling", "floor, expected before"):
        assert text in page


def test_sweep_reports_cells_that_were_not_run(cupy: Any, tmp_path: Path) -> None:
    words = ("--grid", str(tiny_grid(tmp_path)), "--device", "cuda", *OURS)
    assert sweep(tmp_path, *words, "--budget", "0.001s") == 0
    assert (
        "5 items of the run out did not begin: --budget or --maxfail ended it first"
        in (tmp_path / "out" / "report.html").read_text()
    )


def test_sweep_of_a_grid_without_a_gpu_is_modelled_and_host_timed(tmp_path: Path) -> None:
    words = ("--grid", str(tiny_grid(tmp_path)), "--device", "emulated", "--backend", "rawkernel")
    assert sweep(tmp_path, *words) == 0
    done = read_run(tmp_path / "out")
    assert "hardware" not in done.record
    assert {row["provenance"]["run_ns"] for row in done.lines} == {"host"}
    assert all("read_fraction" not in row for row in done.lines)


@pytest.mark.parametrize("text", ["0s", "-5", "9d", "", "m", "1e3"])
def test_sweep_refuses_a_budget_that_is_no_time(text: str, tmp_path: Path, capsys: Any) -> None:
    assert sweep(tmp_path, "--grid", "core", f"--budget={text}") == 4
    assert "must be a time such as 540s, 9m or 1.5h" in capsys.readouterr().err


def test_sweep_dry_run_of_the_core_grid_shows_what_is_expected(tmp_path: Path, capsys: Any) -> None:
    assert sweep(tmp_path, "--grid", "core", "--dry-run", "--device", "emulated") == 0
    shown = capsys.readouterr().out
    (first, *_) = [text for text in shown.splitlines() if "  rawkernel-mma  " in text]
    assert first.endswith("llama-3-8b: floor 125.0 us, predicted 131.5 us (modelled)")
    assert "132 cells on device emulated; nothing was written" in shown
    assert json.dumps(list(tmp_path.iterdir())) == "[]"
