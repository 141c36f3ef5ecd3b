# SPDX-License-Identifier: Apache-2.0
"""pabench conformance --checked: what the checked device finds is the verdict, replayable, in the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pabench.cli.main import run
from pabench.device.headers import EMULATOR
from pabench.resources import resource_dir
from pabench.run.read import read_run

QUICK = ["conformance", "--backend", "rawkernel", "--profile", "quick", "--device", "emulated", "--checked"]


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    return Path(shutil.copytree(resource_dir("kernels_cuda"), tmp_path / "kernels"))


def edit(kernels: Path, before: str, after: str) -> None:
    path = kernels / "paged_decode_simple.cu"
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1
    path.write_text(text.replace(before, after), encoding="utf-8")


def judged(tmp_path: Path, kernels: Path, code: int, *options: str) -> dict[str, Any]:
    out, folder = tmp_path / "result.json", tmp_path / "run"
    paths = ["--kernels", str(kernels), "--artifacts", str(folder), "--json", str(out)]
    assert run([*QUICK, "-k", "normal", *paths, *options]) == code
    (result,) = json.loads(out.read_text())["results"]
    assert list(read_run(folder).lines) == [result]
    return dict(result)


@pytest.mark.parametrize("options", [(), ("--in-process",)])
def test_conformance_checked_finds_what_the_oracle_cannot_see(
    options: tuple[str, ...], tmp_path: Path, kernels: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # what is read is thrown away: the output is right
    edit(
        kernels,
        "const i64 page = pages[(live ? token : end - 1) / page_size];",
        "const volatile i32* behind = block_table + static_cast<i64>(num_rows / num_qo_heads) * max_pages;"
        " static_cast<void>(*behind);"
        " const i64 page = pages[(live ? token : end - 1) / page_size];",
    )
    result = judged(tmp_path, kernels, 1, *options)
    assert result["status"] == "failed"
    finding = result["findings"][0]
    assert (finding["check"], finding["buffer"]) == ("memory", "block_table")
    assert finding["at"]["place"]["file"] == "paged_decode_simple.cu"
    assert "past the end of the buffer in block_table" in result["reason"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "past the end of the buffer" in page
    assert "paged_decode_simple.cu:" in page
    replay = result["failure"]["replay"]
    assert replay.endswith(f"--kernels {kernels} --checked")
    capfd.readouterr()
    words = replay.split()
    assert run(words[1:]) == 1
    assert "memory: read of 4 bytes" in capfd.readouterr().out
    assert run([word for word in words[1:] if word != "--checked"]) == 0


def test_conformance_checked_names_bytes_nobody_wrote(tmp_path: Path, kernels: Path) -> None:
    store = "store_wide(&memory.tokens[lane], Token{value_row, weight, live ? 1u : 0u});"
    edit(kernels, store, f"if (lane != 5) {store} else memory.tokens[lane].row = value_row;")
    result = judged(tmp_path, kernels, 1)
    assert {finding["check"] for finding in result["findings"]} == {"init"}
    assert result["findings"][0]["buffer"] == "shared memory"


def test_conformance_checked_passes_right_kernels(tmp_path: Path) -> None:
    result = judged(tmp_path, resource_dir("kernels_cuda"), 0)
    assert result["status"] == "passed"
    assert result["findings"] == []


def test_conformance_checked_is_no_affair_of_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*QUICK, "--device", "cuda"]) == 4
    assert "checked on the emulated device only" in capsys.readouterr().err


def test_conformance_checked_is_refused_where_the_checker_is_blind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(EMULATOR, tmp_path / "emulator")
    monkeypatch.setenv("PABENCH_EMULATOR", str(tmp_path / "emulator"))
    path = tmp_path / "emulator" / "checked" / "memory.h"
    text = path.read_text(encoding="utf-8")
    before = "missing += touch.written[i] == 0;"
    assert text.count(before) == 1
    path.write_text(text.replace(before, "missing += 0;"), encoding="utf-8")
    folder = tmp_path / "run"
    assert run([*QUICK, "-k", "normal", "--artifacts", str(folder)]) == 7
    assert "checked-device self-test failed: init control" in capsys.readouterr().err
    assert not folder.exists()
