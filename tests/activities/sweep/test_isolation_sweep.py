# SPDX-License-Identifier: Apache-2.0
"""Sweeps over backends that kill or block their process: such a cell is a crashed one, the rest complete."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pabench.activities.sweep.cell import Cell, cell_from_dict
from pabench.cli.main import run
from pabench.problem import Batch, Problem
from pabench.run.read import read_run

ROOT = Path(__file__).resolve().parents[3]
PLACE = "tests.support.isolation_backends:"
SHAPE = ["--heads", "2:1", "--head-dim", "16", "--dtypes", "float32", "--batch", "1", "--device", "emulated"]
LENGTHS = ["--lengths", "fixed:len=20", "--lengths", "fixed:len=50"]
ENDINGS = {
    "Aborts": r"aborted \(SIGABRT\) in run \(isolation_backends\.py:\d+\)",
    "Exits": r"exited with status 0",
    "Forks": r"forked: a copy of the process came back from the backend",
    "Interrupts": r"KeyboardInterrupt \(isolation_backends\.py:\d+ in run\)",
    "DiesInPlan": r"killed by SIGSEGV .*",
}


def sweep(folder: Path, backends: list[str], *words: str) -> int:
    named = [word for name in backends for word in ("--backend", PLACE + name)]
    return run(["sweep", "--page-sizes", "16", *SHAPE, *LENGTHS, *named, "--out", str(folder), *words])


def test_isolation_sweep_goes_on_after_every_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert sweep(out, ["Segfaults", *ENDINGS, "Babbles", "Good"]) == 1
    lines = read_run(out).lines
    assert read_run(out).record["status"] == "finished"
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        found.setdefault(line["backend"].removeprefix(PLACE), []).append(line)
    assert list(found) == ["Segfaults", *ENDINGS, "Babbles", "Good"]
    assert all(len(pair) == 2 for pair in found.values())
    # 20 tokens are fine, 50 are not
    assert [line["status"] for line in found["Segfaults"]] == ["passed", "crashed"]
    assert found["Segfaults"][1]["reason"].startswith("killed by SIGSEGV (segmentation fault) in string_at")
    for name, words in ENDINGS.items():
        for line in found[name]:
            assert line["status"] == "crashed"
            assert re.fullmatch(words, line["reason"]), line["reason"]
            assert (line["run_ns"], line["modelled_ns"]) == (None, None)
            assert line["num_pages"] > 0
            case = json.loads((out / line["failure"]["path"] / "case.json").read_text())["case"]
            assert case["problem"]["page_size"] == 16
    for name in ("Babbles", "Good"):
        assert [line["status"] for line in found[name]] == ["passed", "passed"]
    printed = capfd.readouterr()
    assert "garbage" not in printed.out + printed.err
    assert "11 crashed" in printed.out
    assert "segmentation fault" in (out / "report.html").read_text()
    # what crashed is replayed as such
    line = found["Segfaults"][1]
    assert line["failure"]["replay"].endswith(f"--backend {PLACE}Segfaults")
    assert run(line["failure"]["replay"].split()[1:]) == 1


def test_isolation_sweep_hang_is_a_crashed_cell(tmp_path: Path) -> None:
    words = ["--batch", "2", "--lengths", "fixed:len=9", "--deadline", "2"]
    loops = ["sweep", "--page-sizes", "8", *SHAPE, *words, "--backend", f"{PLACE}Loops,{PLACE}Good"]
    assert run([*loops, "--out", str(tmp_path / "out")]) == 1
    hung, good = read_run(tmp_path / "out").lines
    assert (hung["status"], good["status"]) == ("hung", "passed")
    assert re.fullmatch(r"hung: no progress for 2 s in run \(isolation_backends\.py:\d+\)", hung["reason"])


def test_isolation_sweep_judge_is_out_of_reach(tmp_path: Path) -> None:
    assert sweep(tmp_path / "out", ["BribesTheJudge", "Good"]) == 1
    lines = read_run(tmp_path / "out").lines
    assert [line["status"] for line in lines] == ["failed", "failed", "passed", "passed"]
    assert all(line["run_ns"] is None and not line["check"]["passed"] for line in lines[:2])


def test_isolation_sweep_what_is_timed_has_its_own_verdict(tmp_path: Path) -> None:
    names = ["DiesWhenTimed", "TellsNoTimes", "Good"]
    assert sweep(tmp_path / "out", names, "--lengths", "fixed:len=9") == 1
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for line in read_run(tmp_path / "out").lines:
        found[line["backend"].removeprefix(PLACE)].append(line)
    died, lied, good = found.values()
    assert {line["status"] for line in good} == {"passed"}
    for line in died:
        assert line["status"] == "crashed"
        assert line["reason"].startswith("aborted (SIGABRT) in run (isolation_backends.py:")
        case = json.loads((tmp_path / "out" / line["failure"]["path"] / "case.json").read_text())["case"]
        assert case["poison"] != "nan"
    assert {(line["status"], line["reason"]) for line in lied} == {
        ("crashed", "run_ns of a timed run is no list of times")
    }


def test_isolation_sweep_hang_of_what_is_timed_is_a_hung_cell(tmp_path: Path) -> None:
    words = ["--deadline", "2"]
    assert sweep(tmp_path / "out", ["HangsWhenTimed", "Good"], *words) == 1
    lines = read_run(tmp_path / "out").lines
    assert [line["status"] for line in lines] == ["hung", "hung", "passed", "passed"]


@pytest.mark.parametrize("words", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_isolation_sweep_backend_that_dies_at_load_is_refused(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tmp_path / "out", ["DiesAtLoad"], *words) == 7
    name = re.escape(
        f"pabench: backend '{PLACE}DiesAtLoad' cannot be loaded: aborted (SIGABRT) in __init__ ("
    )
    assert re.fullmatch(name + r"isolation_backends\.py:\d+\)\n", capfd.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_isolation_sweep_stopped_in_a_hang_is_interrupted(tmp_path: Path) -> None:
    words = [*SHAPE, "--batch", "1,2", "--lengths", "fixed:len=9", "--backend", f"{PLACE}Loops"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pabench", "sweep", "--page-sizes", "8", *words, "--out", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    journal, end = tmp_path / "out" / "journal.jsonl", time.monotonic() + 300
    while not journal.exists() or not journal.read_bytes():
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 2, error
    assert "--resume --out out" in error.partition("go on with: pabench sweep ")[2]
    assert "Traceback" not in error
    line, cut = read_run(tmp_path / "out").lines
    assert (cut["status"], cut["reason"]) == ("interrupted", "interrupted after 1 cases")
    assert (line["batch"], line["status"]) == (1, "passed")


def test_isolation_sweep_cells_survive_json() -> None:
    cell = Cell(
        backend="b",
        device="cuda",
        gpu="H200",
        problem=Problem(num_qo_heads=4, num_kv_heads=2, head_dim=8, page_size=3, sm_scale=0.5),
        batch=Batch(kv_lens=(0, 5)),
        lengths="list:0,5",
        seed=7,
        kv_layout="HND",
        interleaved=True,
    )
    assert cell_from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
