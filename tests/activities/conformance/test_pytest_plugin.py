# SPDX-License-Identifier: Apache-2.0
"""The suite inside another project's tests: the example repository, as its CI runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pabench.run.read import read_run

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "kernel_repository"
PLUGIN = "pabench.activities.conformance.pytest_plugin"
FEW = "needle or spotlight or repeat or test_finds"

CAREFUL = "needle and not (finds and crashes)"
"""The repository's own tests run in the process of the session, which such a kernel would take along."""

CRASHES = """

import ctypes


def crashes(q, k_cache, v_cache, block_table, kv_lens, sm_scale):
    if max(kv_lens) > 40:
        ctypes.string_at(0)
    return decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the example."""
    shutil.copytree(EXAMPLE, tmp_path / "repository", ignore=shutil.ignore_patterns("__pycache__", "runs"))
    return tmp_path / "repository"


def pytest_in(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "--pabench-device", "emulated", *arguments]
    return subprocess.run(
        command,
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_plugin_passes_the_right_kernel_of_the_example(repository: Path) -> None:
    options = ["--pabench-backend", "my_kernels.py:decode", "--pabench-artifacts", "run", "-k", FEW]
    done = pytest_in(repository, *options, "--junitxml", "junit.xml", "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        "pabench: my_kernels.py:decode",
        "pabench::my_kernels.py:decode::decode[needle] PASSED",
        "badges deterministic",
        "report: pabench report run",
    ):
        assert line in done.stdout
    assert "test_finds_the_needle_beside_poison[my_kernels.py:decode] PASSED" in done.stdout
    found = read_run(repository / "run")
    assert (found.record["status"], found.record["exit_code"]) == ("finished", 0)
    (suite,) = ElementTree.parse(repository / "junit.xml").getroot()
    ours = [case.get("name", "") for case in suite if case.get("classname", "").startswith("pabench.")]
    assert len(ours) == len(found.lines) >= 3


def test_plugin_fails_the_wrong_kernel_and_outlives_one_that_crashes(repository: Path) -> None:
    with (repository / "my_kernels.py").open("a", encoding="utf-8") as source:
        source.write(CRASHES)
    names = [
        "--pabench-backend",
        "my_kernels.py:crashes",
        "--pabench-backend",
        "my_kernels.py:decode_last_page",
    ]
    done = pytest_in(repository, *names, "--pabench-artifacts", "run", "-k", CAREFUL, "-rA")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "CRASHED my_kernels.py:crashes decode[needle]: killed by SIGSEGV" in done.stdout
    assert "FAILED my_kernels.py:decode_last_page decode[needle]: sequence 0, query head 0" in done.stdout
    assert f"again: pabench replay {Path('run', 'failures')}" in done.stdout
    # the repository's own test fails too, with the verdict of its case
    assert "decode of case" in done.stdout
    assert read_run(repository / "run").record["exit_code"] == 1


def test_plugin_leaves_sessions_alone_that_do_not_ask(repository: Path) -> None:
    named = pytest_in(repository, "--pabench-backend", "my_kernels.py:decode", "-k", "says_what")
    assert named.returncode == 0, named.stdout + named.stderr
    assert re.search(r"\b1 passed, 1?\d\d deselected", named.stdout)
    assert not (repository / "runs").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pabench-backend", "rawkernle"], "unknown backend 'rawkernle'; did you mean 'rawkernel'?"),
        (["--pabench-backend", "rawkernel", "--pabench-profile", "quik"], "did you mean 'quick'?"),
        (
            ["--pabench-backend", "rawkernel", "--pabench-deadline", "0"],
            "--pabench-deadline '0': must be a time",
        ),
        (
            ["--pabench-backend", "rawkernel", "--pabench-seed", "1_0"],
            "--pabench-seed '1_0': must be a whole",
        ),
    ],
)
def test_plugin_refuses_in_one_line(options: list[str], words: str, repository: Path) -> None:
    done = pytest_in(repository, *options)
    assert done.returncode == 4
    said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
    assert len(said) == 1
    assert words in said[0]
    assert not (repository / "runs").exists()


def test_plugin_is_announced_to_pytest_under_its_own_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}


def test_plugin_loads_nothing_heavy() -> None:
    heavy = "{'numpy', 'torch', 'hypothesis', 'pandas'}"
    code = f"import sys, {PLUGIN}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
