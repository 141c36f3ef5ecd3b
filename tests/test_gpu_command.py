"""``pabench gpu`` and ``make gpu``: the whole command, with a stand-in where the GPU would be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pabench.cli.gpu_command import _steps, architecture
from pabench.cli.gpu_steps import Outcome, Step, exit_code, read_outcomes, run_steps
from pabench.cli.main import run
from pabench.cli.run_folder import stop_on_sigterm
from pabench.device.cuda import why_no_cuda
from pabench.errors import UsageError
from pabench.store.read import read_run
from tests.standin_support import FOLDER, ROOT, in_new_process, tiny_grid
from tests.standin_support import cupy as cupy

BLOCKED = ("platformdirs", "altair", "vl_convert", "pytest_benchmark", "ray", "xdist", "ziglang", "mpmath")
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
        (["--budget", "soon"], "--budget 'soon': must be a time above 0"),
        (["--resume"], "--resume: needs the folder of the run"),
        (["--grid", "cor"], "unknown grid 'cor'; did you mean 'core'"),
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


def test_gpu_steps_are_what_the_parts_promise(cupy: Any, tmp_path: Path) -> None:
    made = {one.name: one for one in _steps(tmp_path, "core")}
    assert {name: one.part for name, one in made.items()} == {
        **dict.fromkeys(("doctor", "kernels", "conformance", "controls"), "check"),
        "sweep": "sweep",
    }
    said = {name: " ".join(one.words(300.0)) for name, one in made.items()}
    assert said["kernels"] == "kernels --arch sm_90a"
    assert said["conformance"].startswith(
        "conformance --device cuda --profile quick --backend rawkernel --backend"
    )
    assert "torch-sdpa" not in said["conformance"]
    assert said["controls"].count("--only") >= 4
    assert said["sweep"].endswith("sweep --budget 270s --grid core --device cuda")
    assert sum(one.seconds for one in made.values() if one.part == "check") < 540 - 120


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
    with pytest.raises(KeyboardInterrupt), stop_on_sigterm():
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
    grid = tiny_grid(tmp_path)
    done = in_new_process(
        *("make", "gpu-sweep", f"PYTHON={sys.executable}"),
        f"ARGS=--grid {grid} --out {out} --budget 120s",
        folder=ROOT,
        paths=(FOLDER, block),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "measured ceilings: read" in done.stdout
    assert "sweep: ok" in done.stdout
    sweep = read_run(out / "sweep")
    assert sweep.record["hardware"]["gpu"] == {"problem": "nvidia-smi is not installed"}
    assert sweep.record["provenance"]["device"]["description"] == "Stand-in 3000, CUDA driver 13.2"
    assert {line["backend"]: line["status"] for line in sweep.lines} == {
        **dict.fromkeys(("rawkernel", "rawkernel-mma"), "ok"),
        "torch-sdpa": "unsupported",
    }
    assert all(line["timing"]["method"] == "graph" for line in sweep.lines if line["status"] == "ok")
    assert [row["name"] for row in json.loads((out / "steps.json").read_text())] == ["sweep"]
    page = (out / "report.html").read_text()
    assert "No charts on this page: altair cannot be imported" in page


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
