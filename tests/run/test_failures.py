# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from pabench.run.failures import save_failure
from pabench.run.record import Failure


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "a run"


def saved(run: Path, subject: str, **more: Any) -> Failure:
    return save_failure(
        run,
        check="decode[needle]",
        case_id="0123456789abcdef",
        kind="attention",
        case={"a": 1},
        subject=subject,
        device="emulated",
        text="wrong",
        **more,
    )


def test_failure_folders_of_two_subjects_are_two(run: Path) -> None:
    subjects = [*("rawkernel", "torch-sdpa", "a/b.py:f", "a-b.py:f", "a/b.py-f"), *("é:f", "ü:f")]
    subjects += ["x" * 90, "x" * 90 + "y"]
    ways = {subject: saved(run, subject) for subject in subjects}
    assert len({way.path for way in ways.values()}) == len(subjects)
    for subject, way in ways.items():
        case = json.loads((run / way.path / "case.json").read_text())
        assert (case["subject"], case["check"]) == (subject, "decode[needle]")
        assert (run / way.path / "verdict.txt").read_text() == "wrong\n"
        assert len(Path(way.path).name) < 120
    assert ways["rawkernel"].path == "failures/0123456789abcdef-decode-rawkernel"


def test_failure_replay_is_a_command_for_a_shell(run: Path) -> None:
    way = saved(run, "my kernel's.py:f", words=["--backend", "my kernel's.py:f", "--kernels", "a b"])
    folder = str(run / way.path)
    assert shlex.split(way.replay) == [
        *("pabench", "replay", folder, "--backend", "my kernel's.py:f", "--kernels", "a b")
    ]
    assert "--backend" not in saved(run, "rawkernel").replay


def test_failure_is_whole_when_its_case_is_there(run: Path) -> None:
    seen: list[list[str]] = []

    def fill(folder: Path) -> None:
        (folder / "arrays.npz").write_bytes(b"")
        seen.append(sorted(path.name for path in folder.iterdir()))

    way = saved(run, "rawkernel", beside=fill)
    assert seen == [["arrays.npz", "verdict.txt"]]
    names = sorted(path.name for path in (run / way.path).iterdir())
    assert names == ["arrays.npz", "case.json", "verdict.txt"]
