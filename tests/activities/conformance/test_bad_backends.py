# SPDX-License-Identifier: Apache-2.0
"""Every way a backend can be bad is a verdict by name, through the command, and the run goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pabench.cli.main import run
from pabench.run.read import read_run

BASE = ["conformance", "--profile", "quick", "--device", "emulated", "--deadline", "2"]
PLACE = "tests.support.bad_backends:"

READ_ONLY = r"ValueError: assignment destination is read-only \(\w+_backends\.py:\d+ in fetch\)"
VERDICTS = {
    "Raises": ("crashed", r"ValueError: first line second line \(stub_backends\.py:\d+ in run\)"),
    "WrongShape": ("failed", r"out has shape .*, must be .*"),
    "WrongType": ("failed", r"out has dtype float64, must be float32"),
    "ReturnsNothing": (
        "crashed",
        r"TypeError: fetch returned NoneType, must return AttentionOutput \(base\.py:\d+ in attend\)",
    ),
    "ReturnsTuple": (
        "crashed",
        r"TypeError: fetch returned tuple, must return AttentionOutput \(base\.py:\d+ in attend\)",
    ),
    "NoOutput": ("failed", r"out is NoneType, must be a numpy array"),
    "NoLse": ("failed", r"lse is missing"),
    "Nan": ("failed", r".*got nan.*"),
    "ReturnsView": ("failed", r"the backend returned a view of its inputs: out in q"),
    "ChangesQueries": ("crashed", READ_ONLY),
    "ChangesCache": ("crashed", READ_ONLY),
    "ChangesTable": ("crashed", READ_ONLY),
    "WritesPastTheOutput": (
        "failed",
        r"[1-4] bytes? past its end of an array float32\[.*\] were written, the nearest \d away",
    ),
    "EatsMemory": ("crashed", r"\w*MemoryError: Unable to allocate 1\.00 PiB .*"),
    "Undecided": ("failed", r"not on every run: .*"),
    "ClaimsFloat32Weights": ("failed", r"sequence \d+, query head \d+, dim \d+: err/T .*"),
    "Exits": ("crashed", r"exited with status 0"),
    "Segfaults": ("crashed", r"killed by SIGSEGV .*"),
    "Forks": ("crashed", r"(not on every run: )?forked: a copy of the process came back from the backend"),
    "Loops": ("hung", r"hung: no progress for 2 s in run .*"),
}
"""On ``decode[normal]``: status and reason."""
FINE = ("Good", "Babbles")
BY_CHECK = {
    ("ReadsPastTheTable", "guard"): ("crashed", r"killed by SIGSEGV .*"),
    ("WritesPastTheOutput", "guard"): ("crashed", r"killed by SIGSEGV .*"),
    ("KeepsItsAnswer", "replay"): ("failed", r"run again after its arrays changed: .*"),
    ("AcceptsAnything", "reject"): ("failed", r".* \(.*\): must be refused, was accepted"),
    ("SharesWorkspace", "plans"): ("failed", r"plan 1 of two: .*"),
    ("ClaimsSinks", "decode[sinks]"): ("failed", r".*sink.*"),
}
"""Backend and the check that sees it."""
SELECT = "guard and not *prefill*, reject, plans, replay, decode[sinks]"


def judged(tmp_path: Path, names: list[str], select: str) -> dict[str, Any]:
    subjects = [word for name in names for word in ("--backend", PLACE + name)]
    files = ["--artifacts", str(tmp_path / "run"), "--json", str(tmp_path / "result.json")]
    assert run([*BASE, *subjects, *files, "-k", select]) == 1
    record: dict[str, Any] = json.loads((tmp_path / "result.json").read_text())
    assert read_run(tmp_path / "run").record["status"] == "finished"
    return record


def test_bad_backends_each_get_a_verdict_by_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = [*VERDICTS, *FINE]
    record = judged(tmp_path, names, "normal")
    found = {result["subject"].removeprefix(PLACE): result for result in record["results"]}
    assert list(found) == names
    for name, (status, words) in VERDICTS.items():
        assert found[name]["status"] == status, found[name]
        assert re.fullmatch(words, found[name]["reason"]), found[name]
        saved = tmp_path / "run" / found[name]["failure"]["path"]
        assert (saved / "verdict.txt").read_text().splitlines()[0] == found[name]["reason"]
    assert {found[name]["status"] for name in FINE} == {"passed"}
    counts = [record[key] for key in ("checks", "passed", "failed", "crashed", "hung", "exit_code")]
    bad = [[status for status, _ in VERDICTS.values()].count(kind) for kind in ("failed", "crashed", "hung")]
    assert counts == [len(names), len(FINE), *bad, 1]
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert "garbage" not in printed.out + printed.err


def test_bad_backends_are_seen_by_the_check_that_asks(tmp_path: Path) -> None:
    names = [*(name for name, _ in BY_CHECK), "Good"]
    record = judged(tmp_path, names, SELECT)
    results = {(line["subject"].removeprefix(PLACE), line["check"]): line for line in record["results"]}
    for (name, check), (status, words) in BY_CHECK.items():
        assert results[name, check]["status"] == status, results[name, check]
        assert re.fullmatch(words, results[name, check]["reason"]), results[name, check]
        # of the right one there is nothing to say; it offers no sinks
        assert results["Good", check]["status"] in ("passed", "unsupported")
    subjects = {subject["subject"].removeprefix(PLACE): subject for subject in record["subjects"]}
    assert all(subjects[name]["broken"] for name, _ in BY_CHECK)
    assert not subjects["Good"]["broken"]
