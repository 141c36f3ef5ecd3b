# SPDX-License-Identifier: Apache-2.0
"""The section on the model: what it leaves out, and modelled over measured where both are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pabench.report.model import build_model
from pabench.report.render import render_html
from pabench.report.roofline import RatioRow, RooflineView, same_gpu
from pabench.run.read import read_runs
from pabench.timing.roofline import LEFT_OUT
from tests.support.report_data import PROVENANCE, WORDS, cell, conformance_lines, write_run

H200 = {**PROVENANCE, "device": {"name": "cuda", "description": "NVIDIA H200, CUDA driver 13.0"}}


def measured(page_size: int, batch: int, run_ns: list[float], /, **changes: Any) -> dict[str, Any]:
    words = {key: word for key, word in WORDS.items() if not key.startswith("modelled")} | {
        "run_ns": "measured"
    }
    silent = dict.fromkeys(("modelled_ns", "modelled_tokens_per_s", "modelled_bound", "modelled_gpu"))
    line = cell(page_size, "fixed:len=1024", batch, device="cuda", provenance=words, **silent)
    return {**line, "run_ns": run_ns, "run_token_heads": line["tokens"] * 32, **changes}


def view(tmp_path: Path, *runs: tuple[list[dict[str, Any]], dict[str, Any]]) -> RooflineView | None:
    paths = [
        write_run(tmp_path / f"run{n}", "sweep", lines, provenance=provenance)
        for n, (lines, provenance) in enumerate(runs)
    ]
    return build_model(read_runs(paths)).roofline


def rows(tmp_path: Path, *runs: tuple[list[dict[str, Any]], dict[str, Any]]) -> tuple[RatioRow, ...]:
    found = view(tmp_path, *runs)
    if found is None:
        raise AssertionError("no section")
    return found.rows


def modelled(page_size: int = 16, batch: int = 8, **changes: Any) -> dict[str, Any]:
    return cell(page_size, "fixed:len=1024", batch, **{"modelled_ns": 4000.0, **changes})


def test_report_roofline_prints_the_ratio_of_the_same_cell(tmp_path: Path) -> None:
    lines = [modelled(16), modelled(32)]
    (row,) = rows(tmp_path, (lines, PROVENANCE), ([measured(16, 8, [12_000, 10_000, 10_000])], H200))
    assert row == RatioRow(
        cell="rawkernel: page size 16, fixed:len=1024, batch 8, 32:8 x 128 float16 NHD",
        measured_on="NVIDIA H200, CUDA driver 13.0",
        measured="10.0 µs [10.0 µs–12.0 µs]",
        modelled_for="H200",
        modelled="4.00 µs",
        ratio="0.400",
    )


def test_report_roofline_takes_a_line_that_carries_both(tmp_path: Path) -> None:
    words = {**WORDS, "run_ns": "measured"}
    line = modelled(16, device="cuda", provenance=words, run_ns=[5000.0], run_token_heads=8 * 1024 * 32)
    (row,) = rows(tmp_path, ([line], H200))
    assert row.ratio == "0.800"


@pytest.mark.parametrize(
    ("changes", "ratio"),
    [
        ({"run_token_heads": 32}, "no ratio: a part of the batch was measured"),
        ({"run_token_heads": None}, "no ratio: a part of the batch was measured"),
        ({"run_ns": [0.0]}, "–"),
    ],
)
def test_report_roofline_says_why_there_is_no_ratio(
    tmp_path: Path, changes: dict[str, Any], ratio: str
) -> None:
    (row,) = rows(tmp_path, ([modelled()], PROVENANCE), ([measured(16, 8, [9000.0], **changes)], H200))
    assert row.ratio == ratio


@pytest.mark.parametrize("description", ["NVIDIA H100 80GB HBM3", None])
def test_report_roofline_does_not_divide_by_another_gpu(tmp_path: Path, description: str | None) -> None:
    other = {**PROVENANCE, "device": {"name": "cuda", "description": description}}
    (row,) = rows(tmp_path, ([modelled()], PROVENANCE), ([measured(16, 8, [9000.0])], other))
    assert row.ratio == "no ratio: another GPU was modelled"


@pytest.mark.parametrize(
    "changes",
    [{"page_size": 32}, {"seed": 1}, {"backend": "torch-sdpa"}, {"dtype": "bfloat16"}, {"tokens": 5}],
)
def test_report_roofline_other_cells_do_not_meet(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert rows(tmp_path, ([modelled()], PROVENANCE), ([measured(16, 8, [9000.0], **changes)], H200)) == ()


def test_report_roofline_host_times_are_not_measured(tmp_path: Path) -> None:
    words = {**WORDS, "run_ns": "host"}
    line = measured(16, 8, [9000.0], provenance=words)
    assert rows(tmp_path, ([modelled()], PROVENANCE), ([line], H200)) == ()


def test_report_roofline_a_wrong_kernel_has_no_ratio(tmp_path: Path) -> None:
    line = measured(16, 8, [9000.0], check={"passed": False, "max_ratio": 9.0})
    assert rows(tmp_path, ([modelled()], PROVENANCE), ([line], H200)) == ()


def test_report_roofline_page_says_what_the_model_leaves_out(tmp_path: Path) -> None:
    plain = render_html(read_runs([write_run(tmp_path / "a", "sweep", [modelled()])]))
    for text in LEFT_OUT:
        assert text.replace("'", "&#39;") in plain
    assert "4,800 GB/s, 989.4 TFLOPS in tensor cores" in plain
    assert "NVIDIA H200 datasheet" in plain
    assert "None of these cells has a measured run here" in plain
    both = write_run(tmp_path / "b", "sweep", [measured(16, 8, [8000.0])], provenance=H200)
    html = render_html(read_runs([tmp_path / "a", both]))
    assert ">0.500</td>" in html
    assert "None of these cells" not in html


def test_report_roofline_is_absent_where_nothing_was_modelled(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "conformance", conformance_lines())
    assert build_model(read_runs([run])).roofline is None
    assert 'id="roofline"' not in render_html(read_runs([run]))


@pytest.mark.parametrize(
    ("name", "description", "same"),
    [
        ("H200", "NVIDIA H200, CUDA driver 13.0", True),
        ("A100", "NVIDIA A100-SXM4-80GB, CUDA driver 12.4", True),
        ("RTX4090", "NVIDIA GeForce RTX 4090, CUDA driver 12.8", True),
        ("L4", "NVIDIA L4", True),
        ("L4", "NVIDIA L40S", False),
        ("H200", "NVIDIA GH200 480GB", False),
        ("H100", "NVIDIA H200", False),
        ("", "NVIDIA H200", False),
        ("NVIDIA", "NVIDIA H200", False),
    ],
)
def test_report_roofline_knows_the_gpu_by_whole_words(name: str, description: str, same: bool) -> None:
    assert same_gpu(name, description) is same
