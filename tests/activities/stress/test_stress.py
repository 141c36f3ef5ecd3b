# SPDX-License-Identifier: Apache-2.0
"""Stress of page allocators: what is done, what is counted, what hangs or breaks, and how it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from pabench.activities.stress.bench import run_cell as run_record
from pabench.activities.stress.cell import SCENARIOS, SIZED, StressCell, stress_cells
from pabench.activities.stress.plug import Stress
from pabench.activities.stress.sound import runs, scattered, spread
from pabench.cli.main import run
from pabench.device.base import Device
from pabench.device.registry import DeviceRequest
from pabench.errors import InvalidCase, OutOfPages
from pabench.problem.dtypes import Array
from pabench.report.render import render_report
from pabench.report.stress import figures_of
from pabench.run.directory import RunDirectory
from pabench.run.engine import Engine
from pabench.run.read import read_run
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.results import Granted
from pabench.subjects.allocators.table import ALLOCATORS
from pabench.subjects.registry import load_allocator
from tests.support.allocator_support import shape_of
from tests.support.probe import DEVICE

OURS = [name for name, entry in ALLOCATORS.items() if not entry.peers]
SMALL: dict[str, Any] = {"num_pages": 64, "page_size": 4, "rounds": 4, "seed": 3}


class Misbehaving(Stress):
    """Its allocators misbehave: ``stack`` hangs, ``ticket`` ends its process."""

    bench = "tests.support.stress_work:misbehaving"


def run_cell(asked: StressCell, device: Device) -> dict[str, Any]:
    return run_record(asked, device).flat()


def cell(allocator: str, scenario: str, **changed: Any) -> StressCell:
    size = 32 if scenario in SIZED else 0
    changed |= {"num_pages": 16} if scenario == "oversubscription" else {}  # fewer threads, one kernel less
    return StressCell(**{"allocator": allocator, "scenario": scenario, "size": size, **SMALL, **changed})


def test_stress_cells_go_up_in_powers_of_four() -> None:
    cells = list(stress_cells(["host", "buddy"], max_requests=100))
    assert len(cells) == len({each.id for each in cells}) == 2 * (5 + 5 + 3)
    sizes = [each.size for each in cells if each.allocator == "host" and each.scenario == "pages"]
    assert sizes == [1, 4, 16, 64, 100]
    assert {each.size for each in stress_cells(["host"], scenarios=["requests"])} == {4**n for n in range(11)}
    assert list(stress_cells(["host"], scenarios=["churn"], seed=1)) != list(
        stress_cells(["host"], scenarios=["churn"], seed=2)
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_requests", 0), ("max_requests", 2**20 + 1), ("num_pages", 15), ("page_size", 0), ("rounds", 0)],
)
def test_stress_cells_out_of_range_are_refused(field: str, value: int) -> None:
    with pytest.raises(InvalidCase, match=field):
        list(stress_cells(["host"], **cast(Any, {field: value})))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", OURS)
def test_stress_of_ours_is_sound(name: str, scenario: str) -> None:
    line = run_cell(cell(name, scenario), DEVICE)
    assert line["status"] == "passed", line["reason"]
    times = [key for key in line if key.endswith("_ns")]
    assert all(line["provenance"][key] == "host" for key in times)
    assert bool(times) == (scenario != "fill")
    counts = {"requests", "served"} | ({"spread", "scattered", "occupancy"} if scenario == "churn" else set())
    assert all(line["provenance"][key] == "counted" for key in counts)
    if scenario in SIZED:
        assert line["served"] == line["requests"] == (32 if scenario == "requests" else 1)
        assert line["take_first_ns"] > 0
        assert len(line["take_ns"]) == len(line["give_ns"]) >= 1
    elif scenario == "churn":
        assert [len(line[key]) for key in ("spread", "run_pages", "copies", "occupancy")] == [4] * 4
        assert min(line["spread"]) >= 1
    elif scenario == "oversubscription":
        assert line["served"] == 16
        assert line["requests"] == 64
        assert len(line["refusal_ns"]) >= 1


def test_stress_shows_what_paging_replaced() -> None:
    """The baselines leave more of a pool unused, and one without paging keeps its sequences together."""
    used = {
        name: run_cell(cell(name, "fill"), DEVICE)["utilisation"] for name in ("host", "buddy", "contiguous")
    }
    middle = {name: float(np.median(shares)) for name, shares in used.items()}
    assert middle["host"] > middle["buddy"] > middle["contiguous"]
    apart = {
        name: run_cell(cell(name, "churn", rounds=20), DEVICE)["scattered"][-1] for name in ("host", "buddy")
    }
    assert apart["host"] > apart["buddy"] == 0


def test_stress_measures_of_fragmentation() -> None:
    assert spread(np.array([3, 4, 5])) == 1
    assert spread(np.array([0, 9])) == 5
    assert spread(np.array([], np.int64)) == 1
    host = HostAllocator(shape_of(8, 2, 3, 4))
    for sequence, tokens in ((0, 4), (1, 2), (0, 0)):
        if tokens:
            host.alloc(sequence, tokens)
    host.append(0, 4)  # pages 0, 1, then 3, 4 behind the other's 2
    assert host.pages(0) == (0, 1, 3, 4)
    assert scattered(host) == 1 / 3
    # 0 and 1, 3 and 4, and the other's 2: five pages in three runs of two sequences
    assert runs(host) == (5 / 3, 3 / 2)
    assert runs(HostAllocator(shape_of(8, 2, 3, 4))) == (0, 0)


class Lying(HostAllocator):
    """Grants page 0 to everybody."""

    def block_table(self) -> Array:
        table = super().block_table()
        table[table >= 0] = 0
        return table


class Leaking(HostAllocator):
    """Loses a page on every free."""

    def free(self, sequences: Any) -> None:
        super().free(sequences)
        self._ring.take(min(1, self._ring.count))


class Generous(HostAllocator):
    """Says yes to all."""

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        try:
            return super().alloc(sequence, tokens, final_tokens=final_tokens)
        except OutOfPages:
            return super().alloc(sequence, 0)


@pytest.mark.parametrize(
    ("made", "scenario", "words"),
    [
        (Lying, "requests", "a page is in two places"),
        (Leaking, "pages", "refused what fits: 32 pages needed, 31 available"),
        (Leaking, "churn", "free of 64"),
        (Generous, "oversubscription", "a page was granted when none was left"),
    ],
)
def test_stress_finds_broken_allocators(
    made: type[HostAllocator], scenario: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pabench.activities.stress.bench.load_allocator", lambda name: AllocatorEntry.of(made)
    )
    line = run_cell(cell("broken", scenario), DEVICE)
    assert line["status"] == "failed"
    assert words in line["reason"]


def test_stress_timeouts_and_crashes_are_results(tmp_path: Path) -> None:
    cells = list(stress_cells(["stack", "ticket", "host"], scenarios=["pages"], max_requests=64))
    plug = Misbehaving(cells, device=DeviceRequest(name="emulated"), deadline_s=3.0, config={})
    run_path = tmp_path / "run"
    with Engine(plug, deadline_s=3.0) as engine:
        facts = engine.prepare()
        with RunDirectory.create(run_path, kind="stress", command="pabench stress", config={}) as directory:
            finished = engine.run(plug.items(facts), directory)
    assert facts.device == "emulated"
    assert (finished.exit_code, finished.interrupted, len(finished.records)) == (1, False, 12)
    lines = read_run(run_path).lines
    stack, ticket, host = lines[:4], lines[4:8], lines[8:]
    assert [line["status"] for line in stack] == ["passed", "passed", "hung", "hung"]
    assert stack[2]["reason"] == "took longer than 3 s"
    assert stack[3]["reason"] == "not tried: pages[16] took longer than 3 s"
    assert {line["status"] for line in ticket} == {"crashed"}
    assert ticket[0]["reason"] == "exited with status 3"
    assert {line["status"] for line in host} == {"passed"}
    page = render_report([run_path], tmp_path / "report.html").read_text()
    assert "How do the allocators hold out?" in page
    assert "not tried: pages[16] took longer than 3 s" in page
    assert "4 crashed" in page


def test_stress_command_from_options_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out, file = tmp_path / "run", tmp_path / "lines.json"
    small = ["--max-requests", "16", "--pages", "64", "--rounds", "3", "--page-size", "4"]
    chosen = ["--allocator", "oracle-length", "--allocator", "scan", "--device", "emulated"]
    assert run(["stress", *chosen, *small, "--out", str(out), "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "oracle-length  churn" in printed
    assert f"report: {out / 'report.html'}" in printed
    table = [line for line in printed.splitlines() if not line.startswith("report: ")]
    assert max(map(len, table)) <= 80
    assert table[1].split()[:3] == ["allocator", "scenario", "status"]
    told = json.loads(file.read_text())
    lines = list(read_run(out).lines)
    assert told["records"] == [record.to_line() for record in read_run(out).records]
    assert (told["exit_code"], told["totals"]["passed"]) == (0, len(lines))
    assert [line["check"] for line in lines[:9]] == [
        *("requests[1]", "requests[4]", "requests[16]", "pages[1]", "pages[4]", "pages[16]"),
        *("churn", "oversubscription", "fill"),
    ]
    page = (out / "report.html").read_text()
    assert "18 stress cells ran." in page
    assert "neighbours apart" in page
    assert "copies to move a sequence" in page


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--allocator", "hosst"], "unknown allocator 'hosst'; did you mean 'host'?"),
        (["--scenario", "chrn"], "unknown scenario 'chrn'; did you mean 'churn'?"),
        (["--pages", "3"], "--pages 3: must be at least 16"),
        (["--max-requests", "0"], "--max-requests 0: must be from 1 to 1048576"),
        (["--deadline", "-1"], "--deadline '-1': must be a time such as"),
        (["--device", "abacus"], "unknown device 'abacus'"),
        (["--json", "."], "--json '.': must be a file in an existing folder"),
    ],
)
def test_stress_command_refuses(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(["stress", *options, "--out", str(out)]) == 4
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_stress_figures_of_a_hostile_line_are_harmless() -> None:
    shown = figures_of(
        {"take_ns": ["x", None, 3e3], "take_first_ns": "nan", "spread": [], "refused": 7, "size": 0}
    )
    assert (shown.requests, shown.steady, shown.memory) == ("–", "take 3.00 µs", "7 refused")


def test_stress_starts_many_sequences_in_one_launch() -> None:
    for name in ("scan", "ticket", "stack"):
        allocator: Any = load_allocator(name).make(
            DEVICE, PoolShape(num_pages=4, page_size=2, max_seqs=9, max_pages_per_seq=2)
        )
        allocator.start_empty(7)
        assert allocator.lengths().tolist() == [0] * 7 + [-1] * 2
        assert allocator.free_pages == 4
