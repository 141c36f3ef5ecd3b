# SPDX-License-Identifier: Apache-2.0
"""Conformance and replay of subjects that kill or block their process: verdicts, and the run goes on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pabench.cli.main import run
from pabench.device.emulated import EmulatedDevice
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.resources import resource_dir
from pabench.run.read import read_run
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.rawkernel import RawKernelBackend

BASE = ["conformance", "--profile", "quick", "--device", "emulated"]
PLACE = "tests.support.isolation_backends:"
ENDINGS = {
    "Segfaults": r"killed by SIGSEGV \(segmentation fault\) in string_at \(__init__\.py:\d+\)",
    "Aborts": r"aborted \(SIGABRT\) in run \(isolation_backends\.py:\d+\)",
    "Exits": r"exited with status 0",
    "Killed": r"killed by SIGKILL \(from outside, or by the system when memory runs out\)",
    "Forks": r"(not on every run: )?forked: a copy of the process came back from the backend",
    "Interrupts": r"KeyboardInterrupt \(isolation_backends\.py:\d+ in run\)",
    "Skips": r"Skipped: not today \(isolation_backends\.py:\d+ in run\)",
    "Recurses": r"RecursionError: maximum recursion depth exceeded.* \(isolation_backends\.py:\d+ in run\)",
    "WritesToTheChannel": r"wrote into the suite's own channel: b'garbage'",
    "DiesInPlan": r"killed by SIGSEGV .*",
    "DiesOnce": r"aborted \(SIGABRT\) in run \(isolation_backends\.py:\d+\); the case alone does not .*",
}
FINE = ("Good", "Babbles")


def judged(tmp_path: Path, backends: list[str], *options: str, code: int) -> dict[str, Any]:
    """Run on ``backends`` and return the record of ``--json``."""
    subjects = [word for name in backends for word in ("--backend", PLACE + name)]
    files = ["--artifacts", str(tmp_path / "run"), "--json", str(tmp_path / "result.json")]
    assert run([*BASE, *subjects, *files, *options]) == code
    record: dict[str, Any] = json.loads((tmp_path / "result.json").read_text())
    assert list(read_run(tmp_path / "run").lines) == record["results"]
    return record


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One run of one check over every backend that ends its process at once."""
    folder = tmp_path_factory.mktemp("zoo")
    names = [*ENDINGS, *FINE]
    return folder, judged(folder, names, "-k", "normal", "--junit", str(folder / "junit.xml"), code=1)


def test_isolation_every_end_is_a_verdict_and_the_run_is_complete(zoo: tuple[Path, dict[str, Any]]) -> None:
    folder, record = zoo
    subjects = [result["subject"].removeprefix(PLACE) for result in record["results"]]
    assert subjects == [*ENDINGS, *FINE]
    for name, result in zip(subjects, record["results"], strict=True):
        assert result["check"] == "decode[normal]"
        if name in FINE:
            assert (result["status"], result["cases"], result["failure"]) == ("passed", 60, None)
            continue
        assert result["status"] == "crashed", result
        assert re.fullmatch(ENDINGS[name], result["reason"]), result
        assert result["cases"] >= 1
        assert result["failure"]["text"] == result["reason"]
        saved = folder / "run" / result["failure"]["path"]
        assert (saved / "verdict.txt").read_text().splitlines()[0] == result["reason"]
        assert (saved / "arrays.npz").is_file()
    counts = (record["checks"], record["passed"], record["failed"], record["crashed"], record["exit_code"])
    assert counts == (len(ENDINGS) + len(FINE), len(FINE), 0, len(ENDINGS), 1)
    assert read_run(folder / "run").record["status"] == "finished"
    assert "segmentation fault" in (folder / "run" / "report.html").read_text()


def test_isolation_junit_tells_crashes_from_failures(zoo: tuple[Path, dict[str, Any]]) -> None:
    folder, record = zoo
    (suite,) = ElementTree.parse(folder / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == (
        str(record["checks"]),
        "0",
        str(record["crashed"]),
    )
    errors = {
        case.get("classname", "").rpartition(":")[2]: error.get("message")
        for case in suite
        for error in case.iter("error")
    }
    assert errors == {
        result["subject"].removeprefix(PLACE): result["reason"]
        for result in record["results"]
        if result["status"] == "crashed"
    }


def test_isolation_shrinks_what_kills_the_process(zoo: tuple[Path, dict[str, Any]]) -> None:
    folder, record = zoo
    (result,) = (result for result in record["results"] if result["subject"].endswith(":Segfaults"))
    case = json.loads((folder / "run" / result["failure"]["path"] / "case.json").read_text())["case"]
    assert case["kv_lens"] == [40]
    assert (case["problem"]["num_qo_heads"], case["problem"]["num_kv_heads"]) == (1, 1)
    assert (case["seed"], case["spare_pages"], case["poison"]) == (0, 0, "zero")


def test_isolation_replay_of_a_crash_is_a_verdict(
    zoo: tuple[Path, dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, record = zoo
    for name in ("Segfaults", "Forks"):
        (result,) = (r for r in record["results"] if r["subject"] == PLACE + name)
        saved = str(folder / "run" / result["failure"]["path"])
        assert run(["replay", saved, "--backend", PLACE + name]) == 1
        said = capfd.readouterr().out
        start = f"FAILED {PLACE}{name} decode[normal] on emulated: "
        assert said.startswith(start)
        assert re.fullmatch(ENDINGS[name], said.removeprefix(start).rstrip("\n"))
    assert run(["replay", saved, "--backend", PLACE + "Good"]) == 0
    assert run(["replay", saved, "--backend", PLACE + "DiesAtLoad"]) == 7
    printed = capfd.readouterr()
    assert re.fullmatch(
        r"pabench: backend 'tests\.support\.isolation_backends:DiesAtLoad' cannot be loaded: "
        r"aborted \(SIGABRT\).*\n",
        printed.err,
    )


def test_isolation_hang_is_a_verdict_with_a_small_case(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record = judged(tmp_path, ["Loops", "Good"], "-k", "normal", "--deadline", "2", code=1)
    hung, good = record["results"]
    assert (hung["status"], good["status"]) == ("hung", "passed")
    assert re.fullmatch(r"hung: no progress for 2 s in run \(isolation_backends\.py:\d+\)", hung["reason"])
    saved = tmp_path / "run" / hung["failure"]["path"]
    assert len(json.loads((saved / "case.json").read_text())["case"]["kv_lens"]) == 2
    capfd.readouterr()
    assert run(["replay", str(saved), "--backend", PLACE + "Loops", "--deadline", "2"]) == 1
    assert "hung: no progress for 2 s in run" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("DiesAtSecondLoad", r"aborted \(SIGABRT\) in refuse \(isolation_backends\.py:\d+\)"),
        ("RaisesAtSecondLoad", r"backend '.*' .*OSError: only once \(isolation_backends\.py:\d+ in refuse\)"),
    ],
)
def test_isolation_subject_that_cannot_be_started_again_is_told_so(
    backend: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PABENCH_TEST_LOADED", str(tmp_path / "loaded"))
    lost = f"could not be started again: {words}"
    alone = tmp_path / "alone"
    alone.mkdir()
    first, second = judged(alone, [backend], "-k", "normal, marker", code=1)["results"]
    assert re.fullmatch(rf"aborted \(SIGABRT\) in run \(.*\); {lost}", first["reason"]), first
    assert (first["status"], first["failure"]["text"]) == ("crashed", first["reason"])
    # beside another, it is loaded once for its facts and once more to be judged
    (tmp_path / "loaded").unlink()
    *bad, good = judged(tmp_path, [backend, "Good"], "-k", "normal", code=1)["results"]
    for result in (second, *bad):
        # no case is to blame where none began
        assert re.fullmatch(f"before its first case: {lost}", result["reason"]), result
        assert (result["status"], result["cases"], result["failure"]) == ("crashed", 0, None)
        assert result["device"] == "emulated"
    assert (len(bad), good["status"]) == (1, "passed")


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("DiesAtLoad", r"aborted \(SIGABRT\) in __init__ \(isolation_backends\.py:\d+\)"),
        ("HangsAtLoad", r"hung: no progress for 2 s in __init__ \(isolation_backends\.py:\d+\)"),
    ],
)
def test_isolation_subject_that_cannot_be_loaded_is_refused_once(
    backend: str, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--backend", PLACE + backend, "--artifacts", str(tmp_path / "run"), "--deadline", "2"]
    assert run([*BASE, *options]) == 7
    said = capfd.readouterr().err
    name = re.escape(f"pabench: backend '{PLACE}{backend}' cannot be loaded: ")
    assert re.fullmatch(name + words + "\n", said), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--deadline", "0"],
            "--deadline '0': must be a time such as 540s, 9m or 1.5h, more than 0 and at most 24h",
        ),
        (["--deadline", "-1"], "--deadline '-1': must be a time such as"),
        (["--deadline", "nan"], "--deadline 'nan': must be a time such as"),
        (["--deadline", "inf"], "--deadline 'inf': must be a time such as"),
        (["--deadline", "x"], "--deadline 'x': must be a time such as"),
        (["--deadline", "1_0"], "--deadline '1_0': must be a time such as"),
        (["--deadline", "25h"], "--deadline '25h': must be a time such as"),
        (["--deadline", "5", "--in-process"], "must not be given with --in-process"),
    ],
)
@pytest.mark.parametrize("command", ["conformance", "replay", "sweep"])
def test_isolation_deadline_that_cannot_be_is_refused(
    command: str, options: list[str], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = {
        "conformance": [*BASE, "--artifacts", str(tmp_path / "run")],
        "replay": ["replay", str(tmp_path)],
        "sweep": ["sweep", "--page-sizes", "8", "--out", str(tmp_path / "run")],
    }
    assert run([*base[command], *options]) == 4
    said = capfd.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def planted(tmp_path: Path, file: str, before: str, after: str) -> Path:
    """A copy of the kernels with one edit."""
    kernels = tmp_path / "kernels"
    shutil.copytree(resource_dir("kernels_cuda"), kernels)
    text = (kernels / file).read_text()
    assert text.count(before) == 1
    (kernels / file).write_text(text.replace(before, after))
    return kernels


WILD = "*reinterpret_cast<volatile int*>(static_cast<unsigned long long>(kv_lens[0]) << 44) = 1;"
ENDLESS = "for (volatile int again = 1; again == 1;) {}"


@pytest.mark.parametrize(
    ("fault", "words", "deadline"),
    [
        (WILD, r"killed by SIGSEGV \(segmentation fault\) in \w+ \(emulated\.py:\d+\)", "60"),
        (ENDLESS, r"hung: no progress for 2 s in \w+ \(emulated\.py:\d+\)", "2"),
    ],
    ids=["writes wild", "loops for ever"],
)
def test_isolation_of_a_kernel_that_takes_its_process_along(
    fault: str, words: str, deadline: str, tmp_path: Path
) -> None:
    line = "WarpMemory& memory = reinterpret_cast<WarpMemory*>(shared)[warp];"
    kernels = planted(tmp_path, "paged_decode_simple.cu", line, f"{line} if (kv_lens[0] > 3) {{ {fault} }}")
    # compiled beforehand: compiling is not what has to fit into the deadline
    short = Case(
        problem=Problem(num_qo_heads=1, num_kv_heads=1, head_dim=16, page_size=4), batch=Batch(kv_lens=(2,))
    )
    attend(RawKernelBackend(EmulatedDevice(kernels=kernels)), build_tensors(short))
    options = ["--kernels", str(kernels), "--backend", f"{PLACE}Good", "--allocator", "scan"]
    options += ["-k", "needle or allocator-invariants*", "--deadline", deadline]
    files = ["--artifacts", str(tmp_path / "run"), "--json", str(tmp_path / "result.json")]
    assert run([*BASE, *options, *files]) == 1
    record = json.loads((tmp_path / "result.json").read_text())
    verdicts = {result["check"]: result for result in record["results"]}
    assert verdicts["allocator-invariants"]["status"] == "passed"
    wrong = verdicts["decode[needle]"]
    assert wrong["status"] == ("hung" if fault == ENDLESS else "crashed")
    assert re.fullmatch(words, wrong["reason"]), wrong["reason"]
    saved = tmp_path / "run" / wrong["failure"]["path"]
    lengths = json.loads((saved / "case.json").read_text())["case"]["kv_lens"]
    assert lengths[0] >= 4
    assert lengths == [4] or fault == ENDLESS
    assert run(["replay", str(saved), "--backend", f"{PLACE}Good"]) == 0
