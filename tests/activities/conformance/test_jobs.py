# SPDX-License-Identifier: Apache-2.0
"""Several judges side by side: the same results, in the same order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pabench.cli.main import run


def test_jobs_change_no_result(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def results(jobs: int) -> list[dict[str, Any]]:
        file = tmp_path / f"{jobs}.json"
        options = [
            "--backend",
            "rawkernel",
            "--allocator",
            "host",
            "-k",
            "append*, gather, *empty*, allocator-decode",
        ]
        arguments = ["conformance", "--profile", "quick", "--device", "emulated", *options]
        artifacts = ["--artifacts", str(tmp_path / f"run-{jobs}"), "--json", str(file)]
        assert run([*arguments, *artifacts, "--jobs", str(jobs)]) == 0
        lines = json.loads(file.read_text())["results"]
        return [{key: value for key, value in line.items() if key != "duration_s"} for line in lines]

    alone = results(1)
    assert len(alone) > 5
    assert results(3) == alone


def test_jobs_need_worker_processes(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["conformance", "--in-process", "--jobs", "2"]) == 4
    text = "pabench: --jobs needs worker processes, must not be given with --in-process"
    assert capfd.readouterr().err.startswith(text)
