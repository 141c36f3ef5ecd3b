# SPDX-License-Identifier: Apache-2.0
"""The checked device on its controls: what is planted is found, and a checker that errs is not believed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pabench.cli.main import run
from pabench.controls import hold
from pabench.controls.hold import control_device, controls_hold
from pabench.controls.model import Buffer
from pabench.controls.table import controls_dir, load_controls
from pabench.controls.verdict import Observation, judge, problem_of
from pabench.device.base import KernelSource
from pabench.device.cache import cache_root
from pabench.device.checked import CheckedDevice
from pabench.device.findings import Finding, Party, Place
from pabench.device.headers import EMULATOR
from pabench.device.nvrtc import compile_cubin
from pabench.errors import CompileError, LaunchError
from pabench.resources import resource_dir
from pabench.run.record import Record, Status, Subject
from pabench.selftest.controls import counts
from tests.support.controls import verdicts_of

FOLDER = controls_dir()
CONTROLS = load_controls()
BY_ID = {control.id: control for control in CONTROLS}
QUICK = [control for control in CONTROLS if control.quick]
FAULTY = [control for control in CONTROLS if control.faulty]
TWINS = [control for control in CONTROLS if not control.faulty]
# all of them run in `pabench selftest --controls`; here a third, every file and class among them
SAMPLE = [*QUICK, *FAULTY[2::3], *TWINS[2::3]]


@pytest.fixture(scope="module")
def device() -> CheckedDevice:
    return control_device()


def changed(folder: Path, file: str, before: str, after: str) -> Path:
    """Return a copy of the emulator in which one text of one file is replaced."""
    copy = folder / "emulator"
    shutil.copytree(EMULATOR, copy)
    text = (copy / file).read_text(encoding="utf-8")
    assert text.count(before) == 1
    (copy / file).write_text(text.replace(before, after), encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def blind_emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An emulator whose initcheck sees nothing."""
    folder = tmp_path_factory.mktemp("blind")
    return changed(folder, "checked/memory.h", "if (missing && checked", "if (false && checked")


@pytest.fixture
def blind(blind_emulator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let devices be of that emulator from now on."""
    monkeypatch.setenv("PABENCH_EMULATOR", str(blind_emulator))


def test_controls_sample_has_every_file_and_class() -> None:
    assert {c.file for c in SAMPLE} == {c.file for c in CONTROLS}
    assert {c.expect for c in SAMPLE} == {c.expect for c in CONTROLS}


@pytest.mark.slow
def test_controls_are_judged_right() -> None:
    verdicts = verdicts_of(SAMPLE, seeds=3)
    assert [v.problem for v in verdicts if v.problem] == []
    assert all(v.flagged == (3 if v.control.faulty else 0) for v in verdicts)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"expect": "race"}, "found memory for race: memory: read of 4 bytes"),
        ({"marks": frozenset({1})}, "place is not basics.cu:1: memory: read"),
        ({"expect": "none"}, "false alarm: memory: read of 4 bytes"),
    ],
)
def test_controls_verdict_sees_what_is_wrong_of_a_finding(
    device: CheckedDevice, change: dict[str, object], problem: str
) -> None:
    control = BY_ID["past_table_by_one"]
    for field, value in change.items():
        # past the validation: the table would not have it
        control = dataclasses.replace(control)
        object.__setattr__(control, field, value)
    verdict = judge(control, FOLDER, device, [0, 1])
    assert verdict.problem is not None
    assert verdict.problem.startswith(f"seed 0: {problem}")
    assert verdict.flagged == 2


def test_controls_verdict_may_leave_places_aside(device: CheckedDevice) -> None:
    control = dataclasses.replace(BY_ID["past_table_by_one"], marks=frozenset({1}))
    assert judge(control, FOLDER, device, [0], places=False).problem is None


def test_controls_verdict_allows_a_second_class_where_the_table_says_so() -> None:
    control = BY_ID["no_barrier_after_fill"]
    place = Place(file=control.file, line=min(control.marks))
    party = Party(action="read", block=(0, 0, 0), thread=(0, 0, 0), place=place)
    race, init, sync = (
        Finding(
            check=check,
            kernel=control.id,
            text="it",
            at=party,
            other=None,
            buffer="",
            offset=0,
            nbytes=4,
            count=1,
        )
        for check in ("race", "init", "sync")
    )

    def told(*findings: Finding) -> str | None:
        return problem_of(control, Observation(findings=findings, fault=None, wrong=None))

    assert told(race) is None
    assert told(init, race) is None
    assert str(told(init)).startswith("found init for race")
    assert str(told(race, sync)).startswith("found race, sync for race: sync: it")
    assert told() == "missed"


def test_controls_verdict_names_a_missed_fault(device: CheckedDevice) -> None:
    wanted = dataclasses.replace(BY_ID["past_table_by_one"], id="table_to_its_end")
    assert judge(wanted, FOLDER, device, [5]).problem == "seed 5: missed"


def test_controls_verdict_judges_what_a_twin_leaves(device: CheckedDevice) -> None:
    look_alike = BY_ID["table_to_its_end"]
    assert isinstance(look_alike.args[1], Buffer)
    out = dataclasses.replace(look_alike.args[1], equals=(*range(32, 94, 2), 7))
    verdict = judge(
        dataclasses.replace(look_alike, args=(look_alike.args[0], out, look_alike.args[2])),
        FOLDER,
        device,
        [0],
    )
    assert verdict.problem == "seed 0: out[31] = 94, must be 7"


def test_controls_that_do_not_fit_their_kernel_are_refused(device: CheckedDevice) -> None:
    control = dataclasses.replace(BY_ID["past_table_by_one"], args=())
    with pytest.raises(LaunchError, match="takes 3 arguments, got 0"):
        judge(control, FOLDER, device, [0])


def test_controls_hold_and_remember_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hold, "_held", set())
    assert controls_hold(CheckedDevice()) == []

    def fail(*args: object, **options: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(hold, "judge", fail)
    assert controls_hold(CheckedDevice(seed=5)) == []
    monkeypatch.setattr(hold, "_held", set())
    assert controls_hold(CheckedDevice()) == []  # from the cache folder
    assert list(cache_root().glob("controls-*.txt"))
    with pytest.raises(AssertionError, match="asked again"):
        controls_hold(CheckedDevice(checks=["memory"]))


@pytest.mark.slow
@pytest.mark.usefixtures("blind")
def test_controls_do_not_hold_for_a_blind_checker() -> None:
    for _ in range(2):  # that they do not hold is not remembered
        (miss,) = controls_hold(CheckedDevice())
        assert miss.startswith("init control shared_tail_unwritten (sums a shared tile whose tail")
        assert miss.endswith("): seed 0: missed")
    # a device that does not check for it need not know it
    assert controls_hold(CheckedDevice(checks=["memory", "sync"])) == []


def test_controls_hold_refuses_headers_that_do_not_compile(tmp_path: Path) -> None:
    (tmp_path / "pab").mkdir()
    types = (resource_dir("kernels_cuda") / "pab" / "types.cuh").read_text(encoding="utf-8")
    (tmp_path / "pab" / "types.cuh").write_text(types.replace("using u32 =", "using u33 ="), encoding="utf-8")
    with pytest.raises(CompileError, match=r"basics\.cu does not compile"):
        controls_hold(CheckedDevice(kernels=tmp_path))


def test_selftest_prints_a_table_and_writes_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, out = tmp_path / "c.json", tmp_path / "run"
    asked = ["selftest", "--controls", "--seeds", "2", "--only", "basics.cu", "--json", str(file)]
    assert run([*asked, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("PASS ")
    assert lines[1].split() == ["control", "expected", "found", "place", "seeds"]
    assert lines[2].split() == ["past_table_by_one", "memory", "memory", "yes", "2/2"]
    assert lines[3].split() == ["table_to_its_end", "none", "-", "-", "0/2"]
    assert lines[-2:] == [
        "4/4 flagged, 0 false alarms in 4 correct look-alikes, 2 schedules each",
        f"report: {out / 'report.html'}",
    ]
    told = json.loads(file.read_text())
    assert (told["controls"], told["right"], told["twins"], told["false_alarms"]) == (4, 4, 4, 0)
    first = told["records"][0]
    assert (first["id"], first["status"], first["device"]) == ("past_table_by_one", "passed", "emulated")
    assert (first["details"]["found"], first["details"]["place_right"]) == (["memory"], True)
    (line,) = BY_ID["past_table_by_one"].marks
    assert f"basics.cu:{line} " in first["details"]["example"]
    assert "past_table_by_one" in (out / "report.html").read_text()
    assert run([*asked, "--resume", "--out", str(out)]) == 0  # nothing is asked again
    assert len((out / "journal.jsonl").read_text().splitlines()) == 8


@pytest.mark.usefixtures("blind")
def test_selftest_fails_for_a_blind_checker(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["selftest", "--controls", "--seeds", "1", "--only", "shared_tail_unwritten"]
    assert run([*asked, "--out", str(tmp_path / "run")]) == 1
    out = capsys.readouterr().out
    assert "WRONG shared_tail_unwritten: sums a shared tile whose tail nobody filled: seed 0: missed" in out
    assert "0/1 flagged, 0 false alarms in 0 correct look-alikes" in out


def test_selftest_counts_a_twin_that_fails_as_a_false_alarm() -> None:
    def record(expected: str, status: Status) -> Record:
        asked: dict[str, Any] = dict.fromkeys(("kind", "id", "label", "device"), "x") | {"status": status}
        return Record(**asked, subject=Subject(kind="control", name="x"), details={"expected": expected})

    told = [record("none", Status.FAILED), record("race", Status.FAILED), record("race", Status.PASSED)]
    assert counts(told) == {"controls": 2, "right": 1, "twins": 1, "false_alarms": 1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "exactly one thing to test must be named"),
        (["--controls", "--device", "tpu"], "unknown device 'tpu'"),
        (["--controls", "--checked"], "--checked: pabench selftest has no use for it"),
        (["--controls", "--only", "past_tabel_by_one"], "did you mean 'past_table_by_one'?"),
        (["--controls", "--seeds", "0"], "0 is not in the range"),
        (["--controls", "--json", "absent/c.json"], "must be a file in an existing folder"),
        (["--controls", "--kernels", "absent"], "must be a folder like kernels_cuda"),
    ],
)
def test_selftest_refuses_what_it_cannot_do(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["selftest", *options]) == 4
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


@pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None or importlib.util.find_spec("nvidia") is None,
    reason="NVRTC is not installed: pip install pabench[nvrtc]",
)
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.cu")), ids=lambda path: path.name)
def test_controls_compile_for_the_gpu(path: Path) -> None:
    cubin = compile_cubin(KernelSource(path=path, include_dir=resource_dir("kernels_cuda")), "sm_90a")
    assert cubin.image
    assert "warning" not in cubin.log
