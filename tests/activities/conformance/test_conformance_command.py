# SPDX-License-Identifier: Apache-2.0
"""The command: what it prints and writes, its exit codes, its seeds, and what may not disturb it."""

from __future__ import annotations

import html
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pabench.activities.conformance.load import TRIES
from pabench.checks.axes import AXES
from pabench.checks.registry import CHECKS
from pabench.checks.runner import CheckRunner
from pabench.checks.space import Space, space_from_json, unmet
from pabench.checks.suite import BY_ID
from pabench.cli.main import run
from pabench.device.cuda import why_no_cuda
from pabench.errors import PabenchError
from pabench.problem.problem import CACHE_FEATURES, FEATURES, SCALE_FEATURES
from pabench.run.read import read_run
from pabench.subjects.backends.base import OPTIONAL, ZEROED_ROWS
from pabench.subjects.backends.rawkernel import RawKernelBackend

ROOT = Path(__file__).resolve().parents[3]
COUNTS = ("cases", "checks", "passed", "failed", "unsupported", "crashed")
CONCURRENT = "allocator-concurrent"
LATER = ("allocator-invariants[crowd]", "allocator-invariants[large-pool]")
ALLOCATOR = {
    "allocator-invariants",
    "allocator-invariants[long-rows]",
    "allocator-invariants[rounds]",
    "allocator-invariants[thousand]",
    "allocator-decode",
    CONCURRENT,
    "allocator-invariants[corners]",
    "allocator-invariants[groups]",
    "allocator-invariants[images]",
    "allocator-invariants[tiers]",
    "allocator-invariants[reuse]",
    *LATER,
}
LACKING = {
    "allocator-invariants[corners]": {"ticket", "stack"},
    "allocator-invariants[groups]": {"ticket", "stack", "host"},
    "allocator-invariants[images]": {"scan", "ticket", "stack"},
    "allocator-invariants[tiers]": {"scan", "ticket", "stack"},
    "allocator-invariants[reuse]": {"scan", "ticket", "stack", "host"},
}
"""Who declares nothing of what a check asks."""
DEFAULT_ALLOCATORS = {"scan", "ticket", "stack", "host"}
BASE = ["conformance", "--profile", "quick", "--device", "emulated"]
WHOLE = {
    "pabench conformance --profile quick": (),
    "pabench conformance --backend torch-sdpa --profile quick": ("--backend", "torch-sdpa"),
}
"""Commands of the documents that this file runs whole, so that the tests of the documents need not."""


def operation_of(check: str) -> str:
    return CHECKS[check.split("[")[0]].operation


def pabench(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pabench", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=1200,
        check=False,
    )


@pytest.mark.parametrize(
    ("subjects", "profile", "expected", "lacking", "least"),
    [
        # the same checks with fewer cases: the whole profile is the night's
        ((), "trial", set(BY_ID), {"scan", "host"}, 1500),
        pytest.param(
            WHOLE["pabench conformance --profile quick"],
            "quick",
            set(BY_ID),
            {"scan", "host"},
            4000,
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            WHOLE["pabench conformance --backend torch-sdpa --profile quick"],
            "quick",
            set(BY_ID) - ALLOCATOR,
            set(),
            1000,
            marks=pytest.mark.nightly,
        ),
        pytest.param(("--allocator", "model"), "quick", ALLOCATOR, {"model"}, 50, marks=pytest.mark.nightly),
    ],
    ids=["rawkernel-trial", "rawkernel", "torch-sdpa", "model"],
)
@pytest.mark.slow
def test_conformance_profile_passes(
    subjects: tuple[str, ...],
    profile: str,
    expected: set[str],
    lacking: set[str],
    least: int,
    tmp_path: Path,
) -> None:
    files = ["--json", "run/r.json", "--junit", "run/r.xml", "--html", "r.html", "--artifacts", "run"]
    # the longest test of all, which would be the last one running
    result = pabench(*BASE, "--profile", profile, *subjects, *files, "--jobs", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    record = json.loads((tmp_path / "run" / "r.json").read_text())
    assert {line["check"] for line in record["results"]} == expected
    assert record["cases"] >= least
    assert record["cases"] == sum(line["cases"] for line in record["results"])
    # allocators that serve a request as a whole have no threads that could meet
    unsupported = {
        (line["subject"], line["check"]) for line in record["results"] if line["status"] == "unsupported"
    }
    # torch-sdpa has none of the optional operations, would convert a pool larger than memory, and reads
    # lengths when it plans
    optional = {name for name in BY_ID if name.split("[")[0] in CHECKS and operation_of(name) in OPTIONAL}
    optional |= {"replay", "parted-latents"} | {name for name in BY_ID if "huge-pool" in name}
    # ... and so no plan for many layers, padded rows or lengths to come; nor a cache in another format
    planned = ("layers", "dummy-lengths", "padded-rows", "stored[")
    optional |= {name for name in BY_ID if name.startswith(planned)}
    # ... nor a cache whose keys and values differ, nor scales of sequences, nor sets of keys
    parts = {name: name.partition("[")[2].rstrip("]") for name in BY_ID}
    without = (*CACHE_FEATURES, *SCALE_FEATURES)
    optional |= {name for name, part in parts.items() if name.startswith("masked[") or part in without}
    missing = {("torch-sdpa", name) for name in optional} if "torch-sdpa" in subjects else set()
    # what takes seconds is asked from the default profile on
    judged = {
        name for line in record["results"] if (name := line["subject"]) in {*DEFAULT_ALLOCATORS, "model"}
    }
    assert judged == (lacking if subjects else DEFAULT_ALLOCATORS)
    missing |= {(name, check) for name in judged for check in LATER}
    missing |= {(name, check) for check, names in LACKING.items() for name in judged & names}
    assert unsupported == {(name, CONCURRENT) for name in lacking} | missing
    # and the page says why, each once; the terminal counts them, one line a subject
    reasons = {line["reason"] for line in record["results"] if line["status"] == "unsupported"}
    page = html.unescape((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert all(reason in page for reason in reasons)
    counts = Counter(line["subject"] for line in record["results"] if line["status"] == "unsupported")
    told = dict(re.findall(r"^UNSUPPORTED (\S+), (\d+) checks?: ", result.stdout, re.M))
    assert told == {name: str(count) for name, count in counts.items()}
    if "torch-sdpa" in subjects:
        assert any(reason.endswith("decode[huge-pool]: no pools larger than memory") for reason in reasons)
    # by default four allocators are judged
    checks = len(expected) + (0 if subjects else 3 * len(ALLOCATOR))
    passed = checks - len(unsupported)
    assert [record[name] for name in COUNTS[1:]] == [checks, passed, 0, len(unsupported), 0]
    assert all(line["about"].endswith(".") for line in record["results"])
    summary = f"{record['cases']:,} generated cases, {checks} checks: {passed} passed"
    assert result.stdout.splitlines()[-2].startswith(summary)
    assert result.stdout.splitlines()[-1] == "report: run/report.html"
    # the run directory, and what else was asked for
    found = read_run(tmp_path / "run")
    assert (found.kind, found.record["status"], found.record["exit_code"]) == ("conformance", "finished", 0)
    assert list(found.lines) == record["results"]
    assert (tmp_path / "r.html").read_text().lower().startswith("<!doctype html>")
    assert (tmp_path / "run" / "report.html").is_file()
    suites = ElementTree.parse(tmp_path / "run" / "r.xml").getroot()
    suite = suites if suites.tag == "testsuite" else suites[0]
    assert suite.get("name") == "pabench-conformance"
    assert (suite.get("tests"), suite.get("failures")) == (str(checks), "0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "run"]
    if not subjects:
        assert_everything_is_drawn([line for line in record["results"] if line["subject"] == "rawkernel"])


def assert_everything_is_drawn(lines: list[dict[str, Any]]) -> None:
    """No class of any axis is missed by a backend that takes all of them, and no capability."""
    space, cases = Space(), Counter[str]()
    for line in lines:
        space.join(space_from_json(line.get("space")))
        cases[line["check"]] += line["cases"]
        assert not line.get("refused"), "rawkernel takes all that is drawn"
    reached = space.reached
    assert {axis.name: unmet(axis, reached.get(axis.name), ()) for axis in AXES} == {
        axis.name: () for axis in AXES
    }
    can = RawKernelBackend.capabilities
    assert set(reached["features"].classes) >= {*FEATURES, "none"}
    assert set(reached["dtype"].classes) == can.dtypes
    operations = {operation_of(name) for name in BY_ID if cases[name]}
    # what stands in padded rows is asked along with them
    assert operations | {ZEROED_ROWS} == can.operations >= set(OPTIONAL)
    assert (reached["query heads a KV head"].most or 0) >= 128
    assert (reached["head_dim"].least, reached["head_dim"].most) == (16, 576)
    assert (reached["page_size"].least, reached["page_size"].most) == (1, 512)
    assert (reached["keys of a sequence"].most or 0) > 65_536


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--backend", "rawkernle"], 4, "unknown backend 'rawkernle'; did you mean 'rawkernel'?"),
        (["--allocator", "scna"], 4, "unknown allocator 'scna'; did you mean 'scan'?"),
        (["--profile", "quik"], 4, "unknown profile 'quik'; did you mean 'quick'?"),
        (["--device", "emulatd"], 4, "unknown device 'emulatd'; did you mean 'emulated'?"),
        (["--artifacts", "full"], 4, "full is not empty"),
        (["--artifacts", "file"], 4, "file is not a folder"),
        (["--junit", "absent/x.xml"], 4, "--junit 'absent/x.xml': must be a file in an existing folder"),
        (["--json", "full"], 4, "--json 'full': must be a file in an existing folder"),
        (["--html", "absent/x.html"], 4, "--html 'absent/x.html': must be a file in an existing folder"),
        (["--kernels", "full"], 4, "kernels = 'full': must be a folder like kernels_cuda"),
        (["--seed", "-1"], 4, "--seed '-1': must be a whole number from 0 to"),
        (["--seed", "x"], 4, "--seed 'x': must be a whole number from 0 to"),
        (["-k", "normal and"], 4, "-k 'normal and': ends where a name must follow"),
        (["-k", "needel"], 4, "-k 'needel': no question is called 'needel' (known: decode[needle], "),
        (
            ["-k", "decode and not decode"],
            5,
            "-k 'decode and not decode': leaves nothing to ask of rawkernel",
        ),
        (["--backend", "rawkernel-mma", "-k", "allocator*"], 5, "leaves nothing to ask of rawkernel-mma"),
    ],
)
def test_conformance_refuses_in_one_line(
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").touch()
    (tmp_path / "file").touch()
    assert run([*BASE, *arguments]) == code
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("pabench: ")
    assert words in printed.err
    assert len(printed.err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


@pytest.mark.skipif(why_no_cuda() is None, reason="there is a GPU")
def test_conformance_refuses_an_absent_gpu(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["conformance", "--device", "cuda", "--artifacts", str(tmp_path / "run")]) == 7
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_conformance_runs_what_any_of_several_k_names(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["-k", "decode[needle]", "-k", "reject and not append*", "--backend", "rawkernel", "--dry-run"]
    assert run([*BASE, *asked]) == 0
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert told[:-1] == ["rawkernel/reject", "rawkernel/decode[needle]"]


def test_conformance_compiles_a_broken_kernel_for_its_load_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search for the smallest failing case would ask for it again and again."""
    from pabench.device import emulated
    from pabench.device.compiler import compile_shared

    compiled: list[str] = []

    def counted(*arguments: Any, what: str) -> None:
        compiled.append(what)
        compile_shared(*arguments, what=what)

    monkeypatch.setattr(emulated, "compile_shared", counted)
    kernels = tmp_path / "kernels"
    shutil.copytree(ROOT / "kernels_cuda", kernels)
    (kernels / "paged_decode_simple.cu").write_text(
        'extern "C" __global__ void paged_decode_simple(int* x) { oops; }\n', encoding="utf-8"
    )
    select = ["--backend", "rawkernel", "--kernels", str(kernels), "-k", "decode[normal]"]
    assert run([*BASE, *select, "--in-process", "--artifacts", str(tmp_path / "run")]) == 1
    assert "FAILED rawkernel load: paged_decode_simple.cu does not" in capfd.readouterr().out
    assert 1 <= compiled.count("paged_decode_simple.cu") <= TRIES


def _cases_of(
    tmp_path: Path, name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, dict[str, Any]]]:
    """The cases that a run judges, seen through the records."""
    from pabench.checks.record import CheckRecord

    seen: list[tuple[str, dict[str, Any]]] = []
    judge = CheckRecord.judge

    def spy(record: CheckRecord, case: Any, outcome: Any) -> None:
        seen.append((record.check, case.to_dict()))
        judge(record, case, outcome)

    with monkeypatch.context() as patch:
        patch.setattr(CheckRecord, "judge", spy)
        subjects = ["--backend", "rawkernel", "--allocator", "ticket"]
        select = [
            *subjects,
            "-k",
            "needle, append, allocator-invariants",
            "--artifacts",
            str(tmp_path / name),
        ]
        assert run([*BASE, "--in-process", "--seed", str(seed), *select]) == 0
    return seen


def test_conformance_seed_decides_the_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _cases_of(tmp_path, "a", 7, monkeypatch)
    again = _cases_of(tmp_path, "b", 7, monkeypatch)
    other = _cases_of(tmp_path, "c", 8, monkeypatch)
    assert {check for check, _ in first} == {"decode[needle]", "append", "allocator-invariants"}
    assert first == again
    for check in ("decode[needle]", "append", "allocator-invariants"):
        mine = [json.dumps(case) for name, case in first if name == check]
        assert len(set(mine) & {json.dumps(case) for name, case in other if name == check}) < len(mine) / 3


def test_conformance_is_deaf_to_the_users_pytest(tmp_path: Path) -> None:
    trap = "import sys\nsys.exit('the user has a plugin')\n"
    (tmp_path / "conftest.py").write_text(trap, encoding="utf-8")
    (tmp_path / "trap.py").write_text(trap, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --nonsense -x\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '-p trap'\n")
    (tmp_path / "test_normal.py").write_text("def test_normal():\n    assert False\n", encoding="utf-8")
    result = pabench(
        *[*BASE, "-k", "normal", "--artifacts", "run"],
        cwd=tmp_path,
        PYTEST_ADDOPTS="--collect-only --nonsense",
        PYTEST_PLUGINS="trap",
        CI="true",
    )
    assert (result.returncode, result.stdout.splitlines()[:2]) == (
        0,
        [
            "PASS  1 check passed over 60 generated cases.",
            "60 generated cases, 1 check: 1 passed, 0 failed, 0 crashed, 0 unsupported",
        ],
    )
    names = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert names == {"conftest.py", "trap.py", "pytest.ini", "pyproject.toml", "test_normal.py", "run"}


@pytest.mark.parametrize("where", [[], ["--in-process"]], ids=["isolated", "in-process"])
def test_conformance_leaves_the_environment_as_it_was(
    where: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-x")
    before = dict(os.environ)
    assert run([*BASE, *where, "-k", "normal", "--artifacts", str(tmp_path / "run")]) == 0
    current = dict(os.environ)
    assert {name: value for name, value in current.items() if not name.startswith("PYTEST_CURRENT")} == {
        name: value for name, value in before.items() if not name.startswith("PYTEST_CURRENT")
    }


def test_conformance_that_breaks_is_not_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr(CheckRunner, "answer", broken)
    assert run([*BASE, "--in-process", "--artifacts", str(tmp_path / "run")]) == PabenchError.exit_code
    assert read_run(tmp_path / "run").record["status"] == "interrupted"


def _wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_conformance_ctrl_c_exits_2_with_the_journal_whole(tmp_path: Path) -> None:
    started = tmp_path / "started"
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\nimport numpy as np\n\ncalls = 0\n\n"
        "def decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls > 1:  # the first one only shows that it compiles\n"
        f"        pathlib.Path({str(started)!r}).touch()\n"
        "        time.sleep(3600)\n"
        "    return np.zeros_like(q)\n",
        encoding="utf-8",
    )
    select = ["--backend", "slow.py:decode", "-k", "normal", "--deadline", "3600", "--artifacts", "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pabench", *BASE, *select],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_for(started.is_file)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 2, out + err
    assert "interrupted" in err.splitlines()[-1]
    assert "Traceback" not in out + err
    found = read_run(tmp_path / "run")
    assert found.record["status"] == "interrupted"
    (line,) = found.lines
    assert (line["check"], line["status"]) == ("decode[normal]", "interrupted")
    # how far it was, where anything was said yet
    assert line["reason"] in ("interrupted", "interrupted: 1 cases")


def test_conformance_shows_a_bar_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pabench", *BASE, "-k", "normal or marker", "--artifacts", "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(300) == 0
    assert process.stdout is not None
    assert b"\x1b" not in process.stdout.read()
    process.stdout.close()
    assert b"0/2" in shown
    assert b"1/2" in shown
    assert b"decode" in shown
