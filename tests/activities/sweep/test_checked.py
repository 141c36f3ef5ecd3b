# SPDX-License-Identifier: Apache-2.0
"""``pabench sweep --checked``: counted traffic in each cell, findings as failures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pabench.activities.sweep.counted import TRAFFIC_FIGURES, TRAFFIC_TIMES
from pabench.cli.main import run
from pabench.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE
from pabench.judge.traffic import decode_traffic
from pabench.problem import Problem
from pabench.resources import resource_dir
from pabench.run.directory import read_run


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sweep(*words: str, in_process: bool = True) -> int:
    if in_process:  # a worker process takes seconds to start
        words = (*words, "--in-process")
    shape = ["--heads", "4:2", "--head-dim", "32", "--lengths", "list:70,33,0"]
    return run(["sweep", "--page-sizes", "8,16", "--device", "emulated", *shape, *words])


def journal(folder: str) -> list[dict[str, Any]]:
    return list(read_run(Path(folder)).lines)


def test_sweep_checked_counts_every_cell() -> None:
    assert sweep("--checked", "--out", "out") == EXIT_OK
    lines = journal("out")
    assert len(lines) == 2
    for line in lines:
        problem = Problem(
            num_qo_heads=4, num_kv_heads=2, head_dim=32, page_size=line["page_size"], dtype="float16"
        )
        floor = decode_traffic(problem, (70, 33, 0))
        assert line["closed_form_kv_bytes"] == floor.kv_bytes
        assert line["counted_kv_bytes"] == problem.group_size * floor.kv_bytes
        assert line["page_table_reads"] == 4 * (3 + 2)
        assert (line["bank_conflicts"], line["run_token_heads"]) == (0, 4 * 103)
        assert line["distinct_sectors"] * 32 >= floor.kv_bytes
        assert line["counted_modelled_ns"] >= line["closed_form_modelled_ns"] > 0
        assert {line["provenance"][name] for name in TRAFFIC_FIGURES} == {"counted"}
        assert {line["provenance"][name] for name in TRAFFIC_TIMES} == {"modelled"}
        # a checked run is no sample of speed
        assert (line["plan_ns"], line["run_ns"]) == (None, None)
    page = Path("out/report.html").read_text()
    for label in ("KV bytes read", "distinct sectors", "sectors per request", "bank conflicts"):
        assert label in page


def test_sweep_checked_twice_gives_the_same_lines() -> None:
    assert sweep("--checked", "--out", "one") == EXIT_OK
    assert sweep("--checked", "--out", "two", in_process=False) == EXIT_OK
    took = {"duration_s": None}
    assert [line | took for line in journal("one")] == [line | took for line in journal("two")]


def test_sweep_checked_resumes_and_is_not_mixed_with_timed_cells(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("--checked", "--out", "out") == EXIT_OK
    before = journal("out")
    assert run(["sweep", "--resume", "--out", "out", "--in-process"]) == EXIT_OK
    assert journal("out") == before
    assert "--checked True" not in json.loads(Path("out/run.json").read_text())["command"]
    assert sweep("--out", "timed") == EXIT_OK
    capsys.readouterr()
    assert sweep("--checked", "--resume", "--out", "timed") == EXIT_USAGE
    assert "checked" in capsys.readouterr().err
    assert all(name not in line for line in journal("timed") for name in TRAFFIC_FIGURES)


def test_sweep_checked_finding_fails_the_cell() -> None:
    shutil.copytree(resource_dir("kernels_cuda"), "kernels")
    source = Path("kernels/paged_decode_simple.cu")
    before = "out + row * kValueDim + element, result"
    assert source.read_text().count(before) == 1
    source.write_text(source.read_text().replace(before, "out + (row + 1) * kValueDim + element, result"))
    assert sweep("--checked", "--kernels", "kernels", "--out", "out") == EXIT_FAILURE
    for line in journal("out"):
        assert (line["status"], line["counted_kv_bytes"], line["modelled_ns"]) == ("failed", None, None)
        assert "memory: " in line["reason"]
        assert "paged_decode_simple.cu:" in line["reason"]


@pytest.mark.slow
def test_compare_of_a_kernel_that_reads_each_value_row_twice_fails_by_counts_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(resource_dir("kernels_cuda"), "kernels")
    source = Path("kernels/paged_decode_simple.cu")
    load = "value = load_numbers<kValueVec>(v + token.row, element PAB_VALUE_ROWS);"
    assert source.read_text().count(load) == 1
    source.write_text(source.read_text().replace(load, f"{{ {load} {load} }}"))
    assert sweep("--checked", "--out", "base") == EXIT_OK
    assert sweep("--checked", "--kernels", "kernels", "--out", "twice") == EXIT_OK
    capsys.readouterr()
    assert run(["compare", "base", "base"]) == EXIT_OK
    capsys.readouterr()
    assert run(["compare", "base", "twice"]) == EXIT_FAILURE
    said = capsys.readouterr().out
    assert said.startswith("WORSE: counted_kv_bytes MORE 1.5x")
    assert "verdicts: 2 compared: 2 SAME" in said
    assert "SLOWER" not in said


def test_sweep_checked_backend_without_kernels_has_the_closed_form_only() -> None:
    assert sweep("--checked", "--backend", "torch-sdpa", "--out", "out") == EXIT_OK
    for line in journal("out"):
        assert line["closed_form_kv_bytes"] > 0
        assert (line["counted_kv_bytes"], line["counted_modelled_ns"]) == (None, None)


@pytest.mark.parametrize("words", [("--checked", "--device", "cuda")])
def test_sweep_checked_is_for_the_emulated_device(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(*words, "--out", "out") == EXIT_USAGE
    assert "compute-sanitizer" in capsys.readouterr().err
    assert not Path("out").exists()


def test_sweep_checked_in_a_file_must_be_true_or_false(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sweep.toml").write_text('checked = "yes"\n')
    assert sweep("--config", "sweep.toml", "--out", "out") == EXIT_USAGE
    assert "must be true or false" in capsys.readouterr().err
    Path("sweep.toml").write_text("checked = true\n")
    assert sweep("--config", "sweep.toml", "--out", "out") == EXIT_OK
    assert journal("out")[0]["counted_kv_bytes"] > 0
