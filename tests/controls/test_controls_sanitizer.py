# SPDX-License-Identifier: Apache-2.0
"""The controls under compute-sanitizer, seen through a script that prints what it prints."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pabench.cli.main import run
from pabench.controls import child, sanitizer
from pabench.controls.compare import Compared, compare
from pabench.controls.sanitizer import find_sanitizer, read_output, watch
from pabench.controls.table import controls_dir, load_controls
from pabench.controls.verdict import Verdict
from pabench.device.cuda import why_no_cuda
from pabench.device.emulated import EmulatedDevice
from pabench.errors import EnvironmentRefused

FOLDER = controls_dir()
BY_ID = {control.id: control for control in load_controls()}

MEMCHECK = """========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
=========     at past_table_by_one+0x1d0 in /tmp/tmpq/0a1b.cubin.cu:11
=========     by thread (0,0,0) in block (0,0,0)
=========     Access at 0x7f1d00000100 is out of bounds
=========     Saved host backtrace up to driver entry point at kernel launch time
========= Program hit cudaErrorLaunchFailure (error 719) due to "unspecified launch failure"
pabench-control: {"error": "the CUDA device reports: unspecified launch failure"}
========= ERROR SUMMARY: 2 errors
"""
RACECHECK = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at no_barrier_after_fill+0x90 in /tmp/x.cu:51
=========     and Read access at no_barrier_after_fill+0x100 in /tmp/x.cu:52 [224 hazards]
=========
pabench-control: {"wrong": null}
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
SYNCCHECK = """========= COMPUTE-SANITIZER
========= Barrier error detected. Divergent thread(s) in block
=========     at pab::bar_sync(unsigned int, unsigned int)+0x2c8 in /k/pab/intrinsics_cuda.cuh:53
=========     by thread (0,0,0) in block (0,0,0)
=========         Device Frame: named_barrier_of_too_many+0x2c0 in /tmp/x.cu:65
pabench-control: {"wrong": null}
========= ERROR SUMMARY: 64 errors
"""
INITCHECK = """========= COMPUTE-SANITIZER
========= Uninitialized __global__ memory read of size 4 bytes
=========     at output_read_before_written+0x70 in /tmp/x.cu:18
=========     by thread (31,0,0) in block (0,0,0)
=========     Address 0x7f3c7ec0007c
pabench-control: {"wrong": null}
========= ERROR SUMMARY: 32 errors
"""
CLEAN = """========= COMPUTE-SANITIZER
pabench-control: {"wrong": null}
========= ERROR SUMMARY: 0 errors
"""
CLEAN_RACES = CLEAN.replace(
    "ERROR SUMMARY: 0 errors", "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"
)
WRONG = CLEAN.replace("null", '"out[3] = 7, must be 5"')


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitizer, "why_no_cuda", lambda: None)


def script(folder: Path, outputs: dict[str, str], *, sleep_s: float = 0) -> Path:
    """A compute-sanitizer that knows what to print for each control, and notes how it was called."""
    path = folder / "compute-sanitizer"
    path.write_text(
        f"#!{sys.executable}\n"
        "import json, sys, time\n"
        f"open({str(folder / 'calls')!r}, 'a').write(json.dumps(sys.argv[1:]) + chr(10))\n"
        f"time.sleep({sleep_s})\n"
        f"sys.stdout.write({outputs!r}[sys.argv[-2]])\n",
        encoding="utf-8",
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("tool", "output", "state", "lines", "headline"),
    [
        ("memcheck", MEMCHECK, "flagged", (11,), "Invalid __global__ read of size 4 bytes"),
        ("racecheck", RACECHECK, "flagged", (51, 52), "Error: Race reported between Write access at"),
        ("synccheck", SYNCCHECK, "flagged", (65,), "Barrier error detected. Divergent thread(s) in block"),
        ("initcheck", INITCHECK, "flagged", (18,), "Uninitialized __global__ memory read of size 4 bytes"),
        ("memcheck", CLEAN, "clean", (), None),
        ("racecheck", CLEAN_RACES, "clean", (), None),
        ("memcheck", CLEAN.replace('"wrong": null', '"error": "no kernel"'), "failed", (), "no kernel"),
        ("memcheck", "pabench-control: {\n========= out of luck\n", "failed", (), "out of luck"),
        ("memcheck", "", "failed", (), "no output"),
    ],
)
def test_sanitizer_output_is_read(
    tool: str, output: str, state: str, lines: tuple[int, ...], headline: str | None
) -> None:
    told = read_output(tool, output)
    assert (told.state, told.lines) == (state, lines)
    if headline is None:
        assert told.headline is None
    else:
        assert told.headline is not None
        assert told.headline.startswith(headline)


def test_sanitizer_runs_the_control_in_a_child(tmp_path: Path) -> None:
    program = script(tmp_path, {"no_barrier_after_fill": RACECHECK})
    told = watch(BY_ID["no_barrier_after_fill"], FOLDER, program)
    assert (told.tool, told.state) == ("racecheck", "flagged")
    (call,) = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert call[:2] == ["--tool", "racecheck"]
    assert call[-5:] == [sys.executable, "-m", "pabench.controls.child", "no_barrier_after_fill", str(FOLDER)]


def test_sanitizer_that_cannot_look_into_the_gpu_is_no_verdict(tmp_path: Path) -> None:
    """As on a virtual machine: nothing is wrong with a control, the tool is missing."""
    said = "========= COMPUTE-SANITIZER\n========= Error: Device not supported. Please refer to the manual\n"
    program = script(tmp_path, {"no_barrier_after_fill": said})
    with pytest.raises(EnvironmentRefused, match="cannot look into this GPU: Error: Device not supported"):
        watch(BY_ID["no_barrier_after_fill"], FOLDER, program)


def test_sanitizer_that_does_not_end_is_ended(tmp_path: Path) -> None:
    program = script(tmp_path, {"named_barrier_of_too_many": ""}, sleep_s=60)
    told = watch(BY_ID["named_barrier_of_too_many"], FOLDER, program, deadline_s=0.5)
    assert (told.state, told.headline) == ("deadline", "ended after 0.5 s")


def test_sanitizer_that_does_not_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentRefused, match="does not start"):
        watch(BY_ID["no_barrier_after_fill"], FOLDER, tmp_path / "absent")


@pytest.mark.usefixtures("gpu")
def test_sanitizer_is_found_on_the_path_or_beside_cuda(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    program = script(tmp_path / "bin", {})
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_sanitizer() == program
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert find_sanitizer() == program
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "absent"))
    if not Path("/usr/local/cuda/bin/compute-sanitizer").exists():
        with pytest.raises(EnvironmentRefused, match="compute-sanitizer is neither on the path nor in"):
            find_sanitizer()


@pytest.mark.skipif(why_no_cuda() is None, reason="this machine has a GPU")
def test_sanitizer_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["selftest", "--controls", "--device", "cuda"]) == 7
    told = capsys.readouterr().err
    assert told.startswith("pabench: no CUDA device: ")
    assert told.count("\n") == 1


@pytest.mark.usefixtures("gpu")
def test_selftest_tabulates_both_verdicts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = {
        "past_table_by_one": MEMCHECK,
        "table_to_its_end": CLEAN,
        "no_barrier_after_fill": RACECHECK,
        "barrier_after_fill": CLEAN_RACES,
        "named_barrier_of_too_many": CLEAN,
    }
    script(tmp_path, outputs)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    chosen = [part for name in (*outputs, "shared_tail_unwritten") for part in ("--only", name)]
    file = tmp_path / "c.json"
    command = ["selftest", "--controls", "--device", "cuda", "--seeds", "1", "--json", str(file), *chosen]
    # what stands for a GPU is in this process
    assert run([*command, "--in-process", "--out", str(tmp_path / "run")]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["past_table_by_one"] == ["memory", "memory", "yes", "memcheck", "flagged", "yes"]
    assert rows["table_to_its_end"] == ["none", "clean", "-", "memcheck", "clean", "-"]
    assert rows["no_barrier_after_fill"][-3:] == ["racecheck", "flagged", "yes"]
    assert rows["named_barrier_of_too_many"] == ["sync", "sync", "yes", "synccheck", "clean", "-"]
    assert rows["shared_tail_unwritten"] == ["init", "init", "yes", "-", "no", "tool", "-"]
    told = json.loads(file.read_text())
    assert told["compute_sanitizer"] == {"looked_for": 3, "flagged": 2, "missed": 1, "twins_flagged": 0}
    theirs = {row["id"]: row["details"]["compute_sanitizer"] for row in told["records"]}
    assert theirs["past_table_by_one"]["lines"] == [11]
    assert theirs["shared_tail_unwritten"] is None


def verdict(name: str, problem: str | None = None) -> Verdict:
    return Verdict(
        control=BY_ID[name], seeds=1, flagged=0, found=(), place_right=None, problem=problem, example=None
    )


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (CLEAN, None),
        (WRONG, "on the GPU: out[3] = 7, must be 5"),
        (MEMCHECK, "memcheck on the GPU: flagged: Invalid __global__ read of size 4 bytes"),
        ("", "memcheck on the GPU: failed: no output"),
    ],
)
def test_sanitizer_says_what_is_wrong_with_a_twin(output: str, problem: str | None, tmp_path: Path) -> None:
    row = compare(verdict("table_to_its_end"), FOLDER, script(tmp_path, {"table_to_its_end": output}))
    assert row.problem == problem
    assert (row.state == "flagged") == (output == MEMCHECK)


def test_sanitizer_place_is_told_apart(tmp_path: Path) -> None:
    name = "past_table_by_one"
    (line,) = BY_ID[name].marks
    found, astray = (MEMCHECK.replace(".cu:11", f".cu:{line + by}") for by in (0, 1))
    places = []
    for output in (found, astray, MEMCHECK.replace(" in /tmp/tmpq/0a1b.cubin.cu:11", "")):
        row = compare(verdict(name), FOLDER, script(tmp_path, {name: output}))
        assert row.state == "flagged"
        places.append(row.place_right)
    assert places == [True, False, None]


def test_sanitizer_does_not_run_what_no_tool_looks_for(tmp_path: Path) -> None:
    row = compare(verdict("loop_without_end"), FOLDER, script(tmp_path, {}))
    assert (row.theirs, row.state) == (None, "no tool")
    assert not (tmp_path / "calls").exists()
    # but a look-alike that no tool looks at is watched all the same, for its result
    assert Compared(ours=verdict("loop_without_end", "missed"), theirs=None).problem == "missed"


def test_child_runs_a_control(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(child, "PlainCudaDevice", EmulatedDevice)
    assert child.main(["workspace_through_memory", str(FOLDER)]) == 0
    assert capsys.readouterr().out == f'{child.MARKER}{{"wrong": null}}\n'
    assert child.run("named_barrier_of_too_many", FOLDER)["error"].startswith("named_barrier_of_too_many: ")
    assert "did you mean 'barrier_after_fill'" in child.run("barier_after_fill", FOLDER)["error"]


def test_child_allocates_so_that_a_tool_can_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def raw_module(**given: object) -> SimpleNamespace:
        asked.append(given["options"])
        return SimpleNamespace(compile=lambda: None)

    properties = {"name": b"Stand-in"}
    fake = SimpleNamespace(
        empty=lambda shape, dtype: np.empty(shape, dtype),
        RawModule=raw_module,
        cuda=SimpleNamespace(
            set_allocator=asked.append,
            runtime=SimpleNamespace(
                CUDARuntimeError=RuntimeError,
                getDeviceCount=lambda: 1,
                getDeviceProperties=lambda number: properties,
                driverGetVersion=lambda: 13000,
            ),
            compiler=SimpleNamespace(CompileException=RuntimeError),
            Device=lambda: SimpleNamespace(id=0),
        ),
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    device = child.PlainCudaDevice()
    assert asked == [None]  # no pool
    assert device.empty((3,), np.dtype(np.uint32)).shape == (3,)
    from pabench.controls.launch import kernel_source

    device.load(kernel_source(BY_ID["past_table_by_one"], FOLDER, device))
    assert "--generate-line-info" in str(asked[1])
