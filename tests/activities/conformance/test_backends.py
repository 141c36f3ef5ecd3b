# SPDX-License-Identifier: Apache-2.0
"""Backends that misbehave: each way of it is a verdict with a saved case, and the run goes on to its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pabench.checks.faults import verdict_lines
from pabench.cli.main import run
from pabench.run.read import read_run
from pabench.subjects.backends import own
from pabench.subjects.peers.named import NamedSubject
from tests.support import stub_backends

# in this process, where the registry has the stubs; test_isolation_conformance.py has the other way
BASE = ["conformance", "--profile", "quick", "--device", "emulated", "--in-process"]
REPLAY = ["replay", "--in-process"]


@pytest.fixture(autouse=True)
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in vars(stub_backends):
        if name[0].isupper():
            monkeypatch.setitem(
                own.OWN, name, NamedSubject(about=name, place=f"tests.support.stub_backends:{name}")
            )


def judged(tmp_path: Path, backend: str, select: str, code: int) -> dict[str, Any]:
    """Run and return the result of the only check."""
    out = tmp_path / "result.json"
    options = ["--backend", backend, "-k", select, "--artifacts", str(tmp_path / "run"), "--json", str(out)]
    assert run([*BASE, *options]) == code
    record: dict[str, Any] = json.loads(out.read_text())
    assert record["checks"] == 1
    (result,) = record["results"]
    assert read_run(tmp_path / "run").lines == (result,) or list(read_run(tmp_path / "run").lines) == [result]
    assert record["exit_code"] == code
    return dict(result)


@pytest.mark.parametrize(
    ("backend", "select", "status", "words"),
    [
        ("Raises", "normal", "crashed", "ValueError: first line second line"),
        ("Exits", "normal", "crashed", "SystemExit: 0"),
        ("WrongShape", "normal", "failed", "out has shape"),
        ("WrongShape", "empty", "failed", "out has shape"),
        ("WrongType", "normal", "failed", "out has dtype float64, must be float32"),
        ("WrongType", "repeat", "failed", "out has dtype float64, must be float32"),
        ("ReturnsNothing", "normal", "crashed", "TypeError: fetch returned NoneType, must return"),
        ("ReturnsTuple", "poison", "crashed", "TypeError: fetch returned tuple, must return"),
        ("NoOutput", "normal", "failed", "out is NoneType, must be a numpy array"),
        ("NoOutput", "repeat", "failed", "out is NoneType, must be a numpy array"),
        ("NoOutput", "empty", "failed", "out is NoneType, must be a numpy array"),
        ("NoLse", "normal", "failed", "lse is missing"),
        ("Nan", "placement", "failed", "got nan"),
        ("ChangesQueries", "normal", "failed", "the backend changed its inputs: q"),
        ("ChangesCache", "normal", "failed", "the backend changed its inputs: the cache"),
    ],
)
def test_conformance_gives_a_verdict_on(
    backend: str, select: str, status: str, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = judged(tmp_path, backend, select, 1)
    assert result["status"] == status
    assert words in result["reason"]
    assert result["failure"]["text"] == result["reason"]
    printed = capfd.readouterr()
    assert f"{status.upper()} {backend} {result['check']}: {result['reason']}\n" in printed.out
    assert "Traceback" not in printed.out + printed.err
    # the saved case says the same again
    folder = tmp_path / "run" / result["failure"]["path"]
    verdict, *rest = (folder / "verdict.txt").read_text().splitlines()
    assert verdict == result["reason"]
    assert run([*REPLAY, str(folder)]) == 1
    said, *more = capfd.readouterr().out.splitlines()
    first, *lines = verdict_lines(result["reason"])
    assert said == f"FAILED {backend} {result['check']} on emulated: {first}"
    assert more[: len(lines)] == [f"  {line}" for line in lines]
    more = more[len(lines) :]
    # what a subject raised comes with all of its traceback; a wrong answer has none
    raised = "(" in result["reason"] and ".py:" in result["reason"]
    head = ["Traceback (most recent call last):"] if raised else []
    assert (rest[1:2], more[:1]) == (head, head)
    assert run([*REPLAY, str(folder), "--backend", "Good"]) == 0


def test_conformance_shrinks_to_the_smallest_failing_case(tmp_path: Path) -> None:
    result = judged(tmp_path, "RaisesFromLength", "normal", 1)
    folder = tmp_path / "run" / result["failure"]["path"]
    case = json.loads((folder / "case.json").read_text())["case"]
    assert case["kv_lens"] == [40]
    assert case["problem"]["num_qo_heads"] == 1
    assert case["problem"]["page_size"] == 1
    assert (case["spare_pages"], case["seed"]) == (0, 0)
    assert result["failure"]["case_id"] in folder.name


def test_conformance_keeps_the_output_of_a_backend_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert judged(tmp_path, "Babbles", "normal", 0)["status"] == "passed"
    printed = capfd.readouterr()
    # in its own process it is for who debugs it, and never among what the command says
    assert "garbage" not in printed.out
    assert "garbage" in printed.err
    assert len(printed.out.splitlines()) == 3


def test_conformance_gives_the_ratio_of_the_failure(tmp_path: Path) -> None:
    assert judged(tmp_path, "Nan", "placement", 1)["max_ratio"] == "inf"


def test_conformance_says_when_a_failure_does_not_repeat(tmp_path: Path) -> None:
    result = judged(tmp_path, "Undecided", "normal", 1)
    assert result["status"] == "failed"
    assert result["reason"].startswith("not on every run: sequence 0, query head 0, dim 0")


def test_conformance_judges_narrow_backends_by_as_many_cases(tmp_path: Path) -> None:
    assert judged(tmp_path, "Good", "normal", 0)["cases"] == 60


@pytest.mark.parametrize("backend", ["DrawsNothing", "OnlyPrefill"])
def test_conformance_of_what_can_do_nothing_judges_nothing(backend: str, tmp_path: Path) -> None:
    result = judged(tmp_path, backend, "normal", 5)
    assert (result["status"], result["cases"]) == ("unsupported", 0)
    assert backend in result["reason"]


@pytest.mark.parametrize(
    ("backend", "code", "words"),
    [
        ("NoCapabilities", 4, "backend 'NoCapabilities': NoCapabilities has no 'capabilities'"),
        ("CannotStart", 7, "cannot be loaded: OSError: the vendor's library is missing"),
    ],
)
def test_conformance_refuses_what_is_no_backend(
    backend: str, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*BASE, "--backend", backend, "--artifacts", str(tmp_path / "run")]) == code
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_conformance_interrupted_keeps_what_ended(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--backend", "Interrupts", "-k", "decode", "--artifacts", str(tmp_path / "run")]
    assert run([*BASE, *options, "--json", str(tmp_path / "result.json")]) == 2
    found = read_run(tmp_path / "run")
    assert [line["status"] for line in found.lines] == ["passed", "interrupted"]
    assert (found.record["status"], found.record["exit_code"]) == ("interrupted", 2)
    assert (tmp_path / "run" / "report.html").is_file()
    record = json.loads((tmp_path / "result.json").read_text())
    assert (record["checks"], record["passed"]) == (2, 1)
    assert "interrupted" in capfd.readouterr().err
