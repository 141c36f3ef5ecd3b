# SPDX-License-Identifier: Apache-2.0
"""``pabench gpu`` and ``make gpu``: the whole command, with a stub where the GPU would be."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pabench.cli.gpu_command import _steps, architecture
from pabench.cli.gpu_steps import Outcome, Step, exit_code, plan_of, read_outcomes, run_steps
from pabench.cli.main import run
from pabench.device.cuda import why_no_cuda
from pabench.errors import UsageError
from pabench.run.read import read_run
from pabench.run.signals import stop_signals
from pabench.subjects.backends.adapters.table import ADAPTERS
from tests.support.standin_support import FOLDER, ROOT, in_new_process, tiny_grid, tiny_kinds
from tests.support.standin_support import cupy as cupy

BLOCKED = ("platformdirs", "vl_convert", "pytest_benchmark", "ray", "xdist", "ziglang", "mpmath")
"""Packages that a machine may lack."""


def words(*given: str) -> Any:
    return lambda seconds: given


def step(name: str, *given: str, **options: Any) -> Step:
    return Step(name=name, part="check", **{"seconds": 60.0, "words": words(*given), **options})


def outcomes(steps: Sequence[Step], folder: Path, *, left: float = 60.0, **options: Any) -> list[Outcome]:
    options = {"done": (), "show": lambda text: None, **options}
    return list(run_steps(steps, folder, ends_at=time.monotonic() + left, **options))


def test_gpu_without_a_gpu_is_one_line_and_exit_code_7(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    if why_no_cuda() is None:
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(tmp_path)
    assert run(["gpu"]) == 7
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("pabench: no CUDA device: ")
    assert "pabench gpu needs an NVIDIA GPU" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["--part", "chek"], "unknown part 'chek'; did you mean 'check'"),
        (["--budget", "soon"], "--budget 'soon': must be a time such as"),
        (["--resume"], "--resume: needs the folder of the run"),
        (["--grid", "cor"], "unknown grid 'cor'; did you mean 'core'"),
        (["--kinds", "kind"], "unknown grid 'kind'; did you mean 'kinds'"),
        (["--replicates", "0"], "--replicates '0': must be a whole number from 1 to 100"),
        (["--resume", "--out", "absent"], "--resume: cannot read absent/steps.json"),
    ],
)
def test_gpu_refuses_and_writes_nothing(
    given: list[str], text: str, cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["gpu", *given]) == 4
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_gpu_refuses_a_folder_that_is_in_use(cupy: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "mine").write_text("x")
    assert run(["gpu", "--out", str(tmp_path)]) == 4
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("capability", "name"),
    [((8, 0), "sm_80"), ((8, 9), "sm_80"), ((9, 0), "sm_90a"), ((10, 0), "sm_100a"), ((12, 0), "sm_120")],
)
def test_gpu_compiles_for_the_architecture_here(capability: tuple[int, int], name: str) -> None:
    assert architecture(*capability) == name


OPERATIONS = ("append", "merge", "gather")
"""Of the tiny grid."""
SUBJECTS = (
    *("rawkernel", "rawkernel-cascade", "rawkernel-mla", "rawkernel-mma", "rawkernel-mma-fixed"),
    *("rawkernel-mma-overlap", "rawkernel-wgmma"),
    "scan",
)
"""What the conformance steps judge."""


def test_gpu_steps_are_what_the_parts_promise(cupy: Any, tmp_path: Path) -> None:
    made = {one.name: one for one in _steps(tmp_path, "core")}
    judged = [f"conformance-{name}" for name in SUBJECTS]
    assert {name: one.part for name, one in made.items()} == {
        **dict.fromkeys(("doctor", "kernels", *judged, "controls"), "check"),
        **dict.fromkeys(("allocators", "kinds", "sweep"), "sweep"),
    }
    assert {name for name, one in made.items() if one.group} == set(judged)
    said = {name: " ".join(one.words(300.0)) for name, one in made.items()}
    assert said["kernels"] == "kernels --arch sm_90a"
    assert said["conformance-rawkernel-mma"] == (
        "conformance --device cuda --profile quick --backend rawkernel-mma "
        f"--artifacts {tmp_path / 'conformance-rawkernel-mma'}"
    )
    assert "--allocator scan" in said["conformance-scan"]
    assert said["controls"].count("--only") >= 4
    assert said["sweep"].endswith("sweep --budget 270s --grid core --device cuda")
    assert said["kinds"].endswith("kinds --budget 270s --grid kinds --device cuda")
    alone = [one.seconds for one in made.values() if one.part == "check" and not one.group]
    assert sum(alone) + made["conformance-scan"].seconds < 540 - 120
    assert plan_of(made.values(), 540.0) == PLAN


PLAN = """at most 540 s:
  30 s          doctor
  90 s          kernels
  200 s         conformance-rawkernel, conformance-rawkernel-mma, conformance-rawkernel-mma-fixed, \
conformance-rawkernel-mma-overlap, conformance-rawkernel-wgmma, conformance-rawkernel-mla, \
conformance-rawkernel-cascade and conformance-scan, at the same time
  75 s          controls
  25 s          allocators
  60 s          kinds
  what is left  sweep"""


SANITIZER = """#!/bin/sh
# takes the place of compute-sanitizer: sees nothing, and says so
while [ "$1" != -m ]; do [ "$1" = --tool ] && tool=$2; program=$1; shift; done
"$program" "$@"
[ "$tool" = racecheck ] && echo "========= RACECHECK SUMMARY: 0 hazards displayed"
echo "========= ERROR SUMMARY: 0 errors"
"""
LITTLE_OF = {"scan": "allocator-decode", "rawkernel-mla": "empty"}
"""A question for those that have no case of ``launch-limits``."""
LITTLE = {"doctor": (), "kernels": ("--kernel", "ceilings.cu")} | {
    f"conformance-{name}": ("-k", LITTLE_OF.get(name, "launch-limits")) for name in SUBJECTS
}
"""What keeps the steps short that would otherwise take minutes."""


def test_gpu_checks_to_their_end_with_packages_missing(
    cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check part on a machine that lacks what is not needed; up to the launch all of it is real."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    program = tmp_path / "compute-sanitizer"
    program.write_text(SANITIZER)
    program.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (FOLDER, tmp_path, ROOT))))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(
        "pabench.cli.gpu_command._quick_controls",
        lambda: [word for name in ("past_table_by_one", "table_to_its_end") for word in ("--only", name)],
    )
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    given = [one for one in _steps(run_folder, "core") if one.part == "check"]
    found = outcomes([less(one) for one in given], run_folder, left=300.0)
    assert {one.name: (one.state, one.said) for one in found if one.state != "ok"} == {}
    assert [one.name for one in found] == [one.name for one in given]
    for name in SUBJECTS:
        record = read_run(run_folder / f"conformance-{name}").record
        assert record["provenance"]["device"]["description"] == "Stand-in 3000, CUDA driver 13.2"
    told = read_run(run_folder / "controls").records
    assert [one.details["compute_sanitizer"]["state"] for one in told] == ["clean", "clean"]
    assert "Stand-in 3000 (sm_90)" in (run_folder / "doctor.log").read_text()


def less(given: Step) -> Step:
    """The step with words that keep it short."""

    def fewer(seconds: float) -> Sequence[str]:
        return (*given.words(seconds), *LITTLE.get(given.name, ()))

    return replace(given, words=fewer)


def test_gpu_steps_of_a_group_run_at_the_same_time_and_keep_their_deadlines(tmp_path: Path) -> None:
    """One that would take hours does not keep its neighbours from being told of."""
    hours = ("selftest", "--controls", "--seeds", "10000")
    steps = [
        step("slow", *hours, group="all", seconds=1.0),
        step("quick", "list", "devices", group="all"),
        step("wrong", "no-such-command", group="all"),
    ]
    found = outcomes(steps, tmp_path)
    assert [(one.name, one.state) for one in found] == [
        ("slow", "deadline"),
        ("quick", "ok"),
        ("wrong", "failed"),
    ]
    assert read_outcomes(tmp_path) == tuple(found)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_gpu_steps_hear_an_interrupt_that_the_shell_had_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command started in the background ignores SIGINT, and hands that down."""
    ignored: list[int] = []

    class Looked(subprocess.Popen[bytes]):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            status = Path(f"/proc/{self.pid}/status").read_text()
            ignored.append(int(status.partition("SigIgn:")[2].split()[0], 16))

    monkeypatch.setattr(subprocess, "Popen", Looked)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        outcomes([step("any", "list", "devices")], tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [mask >> (signal.SIGINT - 1) & 1 for mask in ignored] == [0]


def test_gpu_steps_run_log_and_go_on(tmp_path: Path) -> None:
    shown: list[str] = []
    steps = [
        step("first", "list", "devices"),
        step("second", "kernels", "--arch", "sm_1"),
        step("third", "doctor", shown=True),
    ]
    found = outcomes(steps, tmp_path, show=shown.append)
    assert [(one.name, one.state) for one in found] == [
        ("first", "ok"),
        ("second", "failed"),
        ("third", "ok"),
    ]
    assert found[0].command == ("pabench", "list", "devices")
    assert found[1].exit_code == exit_code(found) != 0
    assert found[1].said.startswith("pabench: ")
    assert "platform" in (tmp_path / "third.log").read_text()
    assert any("pabench    version" in text for text in shown)
    assert read_outcomes(tmp_path) == tuple(found)


def test_gpu_steps_that_are_done_are_not_run_again(tmp_path: Path) -> None:
    steps = [step("one", "list", "devices"), step("two", "no-such-command")]
    found = outcomes(steps, tmp_path)
    (tmp_path / "one.log").unlink()
    again = outcomes(steps, tmp_path, done=read_outcomes(tmp_path))
    assert not (tmp_path / "one.log").exists()
    assert [one.state for one in again] == ["ok", "failed"]
    assert again[0] == found[0]
    unfinished = [step("one", "list", "devices", complete=lambda: False)]
    outcomes(unfinished, tmp_path, done=read_outcomes(tmp_path))
    assert (tmp_path / "one.log").exists()


def test_gpu_steps_end_at_their_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Asked] = []

    class Asked(subprocess.Popen[bytes]):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            self.asked: list[int] = []
            made.append(self)

        def send_signal(self, sig: int) -> None:
            self.asked.append(sig)
            super().send_signal(sig)

    monkeypatch.setattr(subprocess, "Popen", Asked)
    hours = ("selftest", "--controls", "--seeds", "10000")
    (found,) = outcomes([step("slow", *hours, seconds=1.0)], tmp_path)
    assert (found.state, found.exit_code) == ("deadline", None)
    assert exit_code([found]) == 1
    (process,) = made
    assert process.asked[:1] == [signal.SIGINT]  # before it would be killed
    assert process.poll() is not None


def test_gpu_steps_are_ended_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    make = subprocess.Popen

    def started_by_a_step(*given: Any, **options: Any) -> Any:
        started.append(make(*given, **options))
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", started_by_a_step)
    with pytest.raises(KeyboardInterrupt), stop_signals():
        outcomes([step("slow", "selftest", "--controls", "--seeds", "10000")], tmp_path)
    assert started[0].poll() == -signal.SIGKILL


def test_gpu_steps_have_no_time_left(tmp_path: Path) -> None:
    (found,) = outcomes([step("late", "doctor")], tmp_path, left=-1.0)
    assert (found.state, found.said) == ("not-run", "no time was left")
    assert not (tmp_path / "late.log").exists()
    assert exit_code([found]) == 1


def test_gpu_steps_may_lack_a_tool(tmp_path: Path) -> None:
    lacking = ("selftest", "--controls", "--device", "cuda")
    if why_no_cuda() is None:
        pytest.skip("this machine has a GPU")
    skipped, failed = outcomes([step("a", *lacking, may_lack=True), step("b", *lacking)], tmp_path)
    assert (skipped.state, failed.state) == ("skipped", "failed")
    assert exit_code([skipped]) == 0
    assert exit_code([skipped, failed]) == 7


@pytest.mark.parametrize("text", ["{}", "[", '[{"name": "x"}]', "[1]"])
def test_gpu_record_of_steps_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "steps.json").write_text(text.replace("{}", '{"a": 1}'))
    with pytest.raises(UsageError, match="is no record of steps"):
        read_outcomes(tmp_path)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_gpu_sweeps_from_make_to_the_report_with_packages_missing(tmp_path: Path) -> None:
    """From the checkout, on a machine that lacks what is not needed; up to the launch all of it is real."""
    block = tmp_path / "block"
    block.mkdir()
    (block / "sitecustomize.py").write_text(BLOCK)
    out = tmp_path / "run"
    grid, kinds = tiny_grid(tmp_path), tiny_kinds(tmp_path)
    done = in_new_process(
        *("make", "gpu-sweep", f"PYTHON={sys.executable}"),
        f"ARGS=--grid {grid} --kinds {kinds} --replicates 1 --out {out} --budget 240s",
        folder=ROOT,
        paths=(FOLDER, block),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "measured ceilings: read" in done.stdout
    assert "kinds: ok" in done.stdout
    assert "sweep: ok" in done.stdout
    sweep = read_run(out / "sweep")
    assert sweep.record["hardware"]["gpu"] == {"problem": "nvidia-smi is not installed"}
    assert sweep.record["provenance"]["device"]["description"] == "Stand-in 3000, CUDA driver 13.2"
    states = {line["backend"]: line["status"] for line in sweep.lines}
    assert {name: state for name, state in states.items() if name not in ADAPTERS} == {
        **dict.fromkeys(("rawkernel", "rawkernel-mma"), "passed"),
        "torch-sdpa": "unsupported",
    }
    absent = re.search(r"left out, not installed \(pabench doctor --peers\): (.*)", done.stdout + done.stderr)
    named = absent[1].split(", ") if absent else []
    assert sorted([*named, *(name for name in states if name in ADAPTERS)]) == sorted(ADAPTERS)
    assert all(line["timing"]["method"] == "graph" for line in sweep.lines if line["status"] == "passed")
    assert [row["name"] for row in json.loads((out / "steps.json").read_text())] == [
        "allocators",
        "kinds",
        "sweep",
    ]
    assert {line["status"] for line in read_run(out / "allocators").lines} == {"passed"}
    assert {line["status"] for line in read_run(out / "kinds").lines} == {"passed"}
    assert sum(line["kind"] == "operation" for line in read_run(out / "kinds").lines) == len(OPERATIONS)
    page = (out / "report.html").read_text()
    assert "No charts on this page: vl-convert-python cannot be imported" in page


def test_gpu_kinds_are_timed_each_by_the_backends_that_are_for_it(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "kinds"
    words = ("sweep", "--grid", str(tiny_kinds(tmp_path)), "--device", "cuda", "--replicates", "3")
    done = in_new_process(
        *(sys.executable, "-m", "pabench", *words, "--out", str(out)), folder=tmp_path, paths=(FOLDER,)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    beside = read_run(out)
    told = {line["operation"]: line for line in beside.lines if line["kind"] == "operation"}
    assert {name: line["status"] for name, line in told.items()} == dict.fromkeys(OPERATIONS, "passed")
    for line in told.values():
        assert [len(one["samples"]) for one in line["replicates"]] == [1, 1, 1]
        assert min(line["achieved_gbps"], line["copy_fraction"], line["predicted_ns"]) > 0
        assert line["provenance"]["run_ns"] == "measured"
    asked = {one["model"] for one in beside.record["config"]["expected"].values()}
    assert set(OPERATIONS) < asked
    assert "operations" not in beside.record["hardware"]
    assert "append of 2 tokens: " in done.stdout
    assert "Operations beside attention" in (out / "report.html").read_text()
    others = [line for line in beside.lines if line["kind"] == "sweep"]
    assert {(line["model"], line["backend"]): line["status"] for line in others} == {
        ("prefill", "rawkernel-mma"): "passed",
        ("latent", "rawkernel-mla"): "passed",
        ("tiny", "rawkernel-cascade"): "passed",
    }
    assert [len(line["replicates"]) for line in others] == [3, 3, 3]
    assert all(len(one["samples"]) > 1 for line in others for one in line["replicates"])
    _compare_names_a_slower_append(out, tmp_path / "slower", capsys)


def _compare_names_a_slower_append(out: Path, new: Path, capsys: Any) -> None:
    """The run beside a copy in which one operation takes longer, by more than processes differ."""
    shutil.copytree(out, new)
    for folder, factor in ((out, 1.0), (new, 1.1)):
        lines = [json.loads(text) for text in (folder / "journal.jsonl").read_text().splitlines()]
        for line in lines:
            if line["details"].get("operation") == "append":
                start = 1e5 * (1 + 1e-3 * line["details"]["replicate"]) * factor
                line["figures"]["run_ns"]["value"] = [start + place for place in range(20)]
        (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(["compare", str(out), str(out)]) == 0
    capsys.readouterr()
    assert run(["compare", str(out), str(new)]) == 1
    head, *rest = capsys.readouterr().out.splitlines()
    assert re.match(r"WORSE: run_ns SLOWER 1\.100x .*append of 2 tokens", head), head
    assert sum(line.startswith("  run_ns SLOWER") for line in rest) == 1, rest


BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""


@pytest.mark.parametrize(
    "given",
    [
        ("doctor",),
        ("list", "backends"),
        ("kernels", "--arch", "sm_90a", "--kernel", "ceilings.cu"),
        ("conformance", "--profile", "quick", "--device", "emulated", "-k", "append", "--artifacts", "out"),
        ("sweep", "--page-sizes", "16", "--lengths", "fixed:len=8", "--batch", "1", "--out", "out"),
        ("selftest", "--controls", "--seeds", "1", "--only", "past_table_by_one", "--json", "out.json"),
    ],
    ids=lambda given: given[0],
)
def test_gpu_machine_may_lack_what_is_not_needed(given: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    done = in_new_process(sys.executable, "-m", "pabench", *given, folder=tmp_path, paths=(tmp_path,))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
