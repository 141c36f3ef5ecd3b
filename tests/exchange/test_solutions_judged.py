# SPDX-License-Identifier: Apache-2.0
"""Solutions right and wrong through the whole command, their traces, and replays of what they failed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pabench.checks.case_budget import CASE_BUDGETS
from pabench.checks.runner import CheckRunner
from pabench.checks.subject_facts import load_judged
from pabench.checks.suite import question_by_id
from pabench.cli.main import run
from pabench.device.registry import open_device
from pabench.errors import InvalidCase
from pabench.exchange.trace import check_trace
from pabench.run.record import Status
from tests.exchange.test_definitions import decode_workload
from tests.support.trace_sets import definition, solution, write_set

ABOUT = definition()
STATUSES = {
    "right": "PASSED",
    "kv-head": "INCORRECT_NUMERICAL",
    "natural-lse": "INCORRECT_NUMERICAL",
    "crash": "RUNTIME_ERROR",
    "half": "INCORRECT_DTYPE",
    "shape": "INCORRECT_SHAPE",
}


def traces(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run(["export", str(folder), "--to", "flashinfer-trace"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line in lines:
        check_trace(line)
    return lines


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over one workload of a file."""
    root = tmp_path_factory.mktemp("set")
    write_set(root, ABOUT, *(solution(ABOUT, name) for name in STATUSES))
    workloads = decode_workload(root)
    words = ["conformance", "--definitions", str(root), "--workloads", str(workloads), "-k", "workload"]
    assert run([*words, "--profile", "quick", "--out", str(root / "run")]) == 1
    return root


def test_each_solution_has_its_status(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = traces(judged / "run", capsys)
    assert {line["solution"]: line["evaluation"]["status"] for line in lines} == STATUSES
    assert {line["workload"]["uuid"] for line in lines} == {"w-1"}
    right = next(line["evaluation"] for line in lines if line["solution"] == "right")
    assert 0 < right["correctness"]["max_absolute_error"] < 1e-6
    assert "did not time it" in right["log"]
    wrong = next(line["evaluation"] for line in lines if line["solution"] == "kv-head")
    assert wrong["correctness"]["max_absolute_error"] > 0.1
    assert "KV head" in wrong["log"]


def test_a_failed_workload_replays_from_its_folder_alone(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [folder] = (judged / "run" / "failures").glob("*kv-head*")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in folder.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    for name, code in (("kv-head", 1), ("right", 0)):
        words = ["replay", str(moved), "--backend", str(judged / "solutions" / f"{name}.json")]
        assert run(words) == code
    (moved / "arrays.npz").write_bytes((moved / "arrays.npz").read_bytes()[:-100])
    assert run(["replay", str(moved), "--backend", str(judged / "solutions" / "right.json")]) == 4
    assert "arrays.npz" in capsys.readouterr().err


def test_the_script_beside_a_failed_workload_finds_it_wrong(judged: Path) -> None:
    [folder] = (judged / "run" / "failures").glob("*kv-head*")
    words = [sys.executable, str(folder / "repro.py"), str(judged / "solutions" / "kv-head.json")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert "output: off by" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    "shape",
    [{}, {"latent": True}, {"prefill": True}, {"latent": True, "prefill": True, "page_size": 1}],
    ids=str,
)
@pytest.mark.parametrize("question", ["decode[needle]", "placement", "empty", "prefill"])
def test_right_solutions_pass_what_is_drawn(shape: dict[str, Any], question: str, tmp_path: Path) -> None:
    about = definition(**shape)
    [right] = write_set(tmp_path, about, solution(about))
    if question == "prefill":
        if not shape.get("prefill"):
            pytest.skip("a definition of decode")
        question = "prefill[latent-cache]" if shape.get("latent") else "prefill[causal]"
    device = open_device("emulated", must_run=False)
    runner = CheckRunner(device=device, case_budget=replace(CASE_BUDGETS["quick"], examples=5), seed=1)
    answer = runner.answer(question_by_id(question), load_judged("backend", str(right), device))
    assert (answer.result.status, answer.result.reason) == (Status.PASSED, None)
    assert answer.result.cases


def test_what_passes_its_workloads_alone_is_no_passed_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = solution(ABOUT)["sources"][0]["content"].replace(
        "for head in range(q.shape[1]) if seen else ():",
        "for head in range(q.shape[1]) if seen and sm_scale == 0.25 else ():",
    )
    [file] = write_set(tmp_path, ABOUT, solution(ABOUT, "one-scale", text))
    words = ["conformance", "--backend", str(file), "--profile", "quick", "--out", str(tmp_path / "run")]
    assert run([*words, "-k", "workload, decode[needle]"]) == 1
    lines = traces(tmp_path / "run", capsys)
    assert {line["evaluation"]["status"] for line in lines} == {"INCORRECT_NUMERICAL"}
    assert "wrong on a drawn case" in lines[0]["evaluation"]["log"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--definitions", "."], "no definitions/*.json in it"),
        (["--workloads", "w.jsonl"], "--workloads needs a solution"),
        (
            ["--backend", "set/solutions/right.json", "--workloads", "other.jsonl"],
            "has no workload of the definition",
        ),
        (["--backend", "set/solutions/right.json", "--workloads", "broken.jsonl"], "line 1: not JSON"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(Path("set"), ABOUT, solution(ABOUT))
    line = json.loads(decode_workload(Path()).read_text())
    Path("other.jsonl").write_text(json.dumps({**line, "definition": "another"}))
    Path("broken.jsonl").write_text("{")
    assert run(["conformance", *words]) == 4
    assert said in capsys.readouterr().err


LINE: dict[str, Any] = {
    "definition": "d",
    "workload": {"uuid": "u", "axes": {"n": 1}, "inputs": {"q": {"type": "random"}}},
    "solution": "s",
    "evaluation": {
        "status": "PASSED",
        "environment": {"hardware": "cpu", "libs": {}},
        "timestamp": "2026-01-01T00:00:00Z",
        "log": "",
        "correctness": {"max_relative_error": 0.0, "max_absolute_error": "NaN"},
        "performance": {"latency_ms": 0.0, "reference_latency_ms": 0.0, "speedup_factor": 0.0},
    },
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e.update(status="OK"), "status = 'OK'"),
        (lambda e: e.pop("correctness"), "correctness = None: must be there"),
        (lambda e: e.update(status="TIMEOUT"), "correctness"),
        (lambda e: e.update(status="INCORRECT_NUMERICAL"), "performance"),
        (lambda e: e["environment"].update(hardware=""), "hardware"),
        (lambda e: e["correctness"].update(max_relative_error=-1.0), "max_relative_error = -1.0"),
    ],
)
def test_trace_lines_are_held_to_the_schema(change: Any, said: str) -> None:
    check_trace(LINE)
    line = json.loads(json.dumps(LINE))
    change(line["evaluation"])
    with pytest.raises(InvalidCase) as error:
        check_trace(line)
    assert said in str(error.value)
