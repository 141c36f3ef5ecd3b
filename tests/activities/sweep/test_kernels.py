# SPDX-License-Identifier: Apache-2.0
"""A sweep over our own kernels on the emulated device, right and with an edit that breaks them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pabench.cli.main import run
from pabench.resources import resource_dir
from pabench.run.directory import read_run

EDITS = {
    "last key left out": (
        "const int end = static_cast<int>(split_end < keys.end ? split_end : keys.end);",
        "const int end = static_cast<int>(split_end < keys.end ? split_end : keys.end - 1);",
    ),
    "page ids cut to 16 bits": ("const i64 page = pages", "const u16 page = pages"),
    "heads dealt in turn": ("head / group_size;", "head % (num_qo_heads / group_size);"),
}


def sweep(*words: str) -> int:
    shape = ["--heads", "4:2", "--head-dim", "32", "--batch", "2", "--lengths", "fixed:len=70"]
    return run(["sweep", "--page-sizes", "16", "--device", "emulated", *shape, "--out", "out", *words])


def test_sweep_kernels_end_in_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep() == 0
    page = Path("out/report.html").read_text()
    assert "fixed:len=70" in page
    assert re.search(r"<script(?! type=.application/json)", page) is None
    assert "report: out/report.html" in capsys.readouterr().out
    line = read_run(Path("out")).lines[0]
    assert len(line["prepare_ns"]) == len(line["run_ns"])
    assert line["provenance"]["prepare_ns"] == "host"
    assert "of run, for all layers" in page


@pytest.mark.parametrize("fault", EDITS)
def test_sweep_kernels_with_a_fault_fail_and_name_the_place(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(resource_dir("kernels_cuda"), "kernels")
    source, (before, after) = Path("kernels/paged_decode_simple.cu"), EDITS[fault]
    text = source.read_text()
    assert text.count(before) == 1
    source.write_text(text.replace(before, after))
    assert sweep("--kernels", "kernels", "--in-process") == 1
    line = read_run(Path("out")).lines[0]
    assert (line["status"], line["run_ns"], line["modelled_ns"]) == ("failed", None, None)
    assert re.search(r"sequence \d+, query head \d+", line["reason"])
    replay = line["failure"]["replay"].split()[1:]
    assert replay[-2:] == ["--kernels", "kernels"]
    assert run([*replay, "--in-process"]) == 1
    assert run([*replay[:-2], "--in-process"]) == 0  # the shipped kernels are right
