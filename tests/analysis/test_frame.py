# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pabench
from pabench.analysis.page_sizes import pooled_memory
from pabench.errors import UsageError
from tests.support.report_data import cell, check, sweep_lines, write_run


def test_frame_has_a_row_a_record_and_a_column_a_figure(tmp_path: Path) -> None:
    sweep = write_run(tmp_path / "a", "sweep", sweep_lines(batches=(8,)))
    judged = write_run(tmp_path / "b", "conformance", [check("x", "append", max_ratio=float("inf"))])
    frame = pabench.read(sweep, str(judged))
    assert len(frame) == 10
    assert list(frame["run"].unique()) == ["a", "b"]
    assert list(frame["kind"].unique()) == ["sweep", "conformance"]
    assert set(frame["status"]) == {"passed"}
    assert frame.attrs["units"]["run_ns"] == "ns"
    assert frame.attrs["provenance"]["run_ns"] == "host"
    assert frame.attrs["provenance"]["num_pages"] == "counted"
    assert frame.loc[9, "max_ratio"] == float("inf")
    pivot = frame[frame["kind"] == "sweep"].pivot_table(
        index="lengths", columns="page_size", values="internal_fragmentation"
    )
    assert pivot.shape == (3, 3)
    one = cell(8, "azure-conv", 8)
    assert pivot.loc["azure-conv", 8] == one["internal_fragmentation"]


def test_frame_tells_figures_of_two_classes_apart(tmp_path: Path) -> None:
    first = cell(8, "azure-conv", 8)
    second = cell(16, "azure-conv", 8, provenance={**first["provenance"], "run_ns": "measured"})
    frame = pabench.read(write_run(tmp_path / "run", "sweep", [first, second]))
    assert frame.attrs["provenance"]["run_ns"] == "mixed"


def test_frame_of_nothing_and_of_no_run(tmp_path: Path) -> None:
    frame = pabench.read(write_run(tmp_path / "run", "sweep", []))
    assert len(frame) == 0
    assert list(frame.columns)[:3] == ["run", "kind", "id"]
    with pytest.raises(UsageError, match="does not exist"):
        pabench.read(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no run given"):
        pabench.read()


def test_importing_the_package_imports_no_pandas() -> None:
    code = "import sys, pabench; assert 'read' in dir(pabench); sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def memory(page_size: int, seed: int, slots: int, waste: int, gain: float | None) -> dict[str, object]:
    load = {"lengths": "fixed", "batch": 1, "seed": seed}
    counted = {"num_pages": slots // page_size, "slots": slots, "waste_tokens": waste}
    return {"page_size": page_size, **load, **counted, "efficiency_gain": gain}


def test_pooled_memory_pools_the_loads_that_every_page_size_has() -> None:
    lines = [memory(8, 0, 80, 8, 2.0), memory(8, 1, 800, 0, 1.0), memory(16, 0, 160, 88, 1.0)]
    found = pooled_memory(lines)
    assert list(found.index) == [8, 16]
    assert list(found["batches"]) == [1, 1]
    assert list(found["waste"]) == [8 / 80, 88 / 160]
    assert list(found["gain"]) == [2.0, 1.0]


def test_pooled_memory_says_no_gain_where_one_is_not_known() -> None:
    found = pooled_memory([memory(8, 0, 80, 8, None), memory(8, 1, 80, 8, 3.0)])
    assert found.loc[8, "batches"] == 2
    assert bool(found["gain"].isna().all())
    assert found.loc[8, "waste"] == 0.1
