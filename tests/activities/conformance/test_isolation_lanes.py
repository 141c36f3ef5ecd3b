"""The suite in several lanes: side by side, in order, and ended together."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pabench.activities.conformance.judge import ALONE
from pabench.activities.conformance.lanes import SuiteInLanes
from pabench.activities.conformance.planned import positions_of
from pabench.activities.conformance.recorder import Recorder
from pabench.activities.conformance.request import ConformanceRequest
from pabench.cli.main import run
from pabench.device.registry import DeviceRequest
from pabench.errors import EXIT_INTERRUPTED, PabenchError
from pabench.run.directory import RunDirectory
from tests.support.isolation_suite import NAMES

REQUEST = ConformanceRequest(backends=("stub",), allocators=(), profile="quick", seed=3)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with RunDirectory.create(
        tmp_path / "run", kind="conformance", command="", config={}, provenance={}
    ) as directory:
        yield Recorder(run=directory)


@pytest.fixture
def meeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "meeting"
    folder.mkdir()
    monkeypatch.setenv("PABENCH_TEST_MEETING", str(folder))
    return folder


def suite_of(script: str, jobs: int | None) -> SuiteInLanes:
    entry = f"tests.support.isolation_suite:{script}"
    return SuiteInLanes(REQUEST, DeviceRequest(name="emulated"), deadline_s=60.0, jobs=jobs, entry=entry)


def found(recorder: Recorder) -> list[tuple[str, str, str | None]]:
    return [(result.check, result.status, result.reason) for result in recorder.results]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("shares", [1, 2, 3, 5])
@pytest.mark.parametrize("since", [0, 1, 4])
def test_isolation_lanes_share_every_position_once(count: int, shares: int, since: int) -> None:
    parts = [positions_of(count, (share, shares), since=since) for share in range(shares)]
    assert sorted(position for part in parts for position in part) == list(range(since, count))


@pytest.mark.parametrize("period", [2, 3, 6, 7])
@pytest.mark.parametrize("shares", [2, 3, 8])
def test_isolation_lanes_share_out_what_comes_again_and_again(period: int, shares: int) -> None:
    """Six backends in turns, say: none of them falls to one share alone."""
    for share in range(shares):
        phases = Counter(position % period for position in positions_of(50 * period, (share, shares)))
        assert all(abs(phases[phase] - 50 / shares) <= 2 for phase in range(period))


@pytest.mark.parametrize("jobs", [3, 200])
def test_isolation_lanes_run_side_by_side_and_record_in_order(
    jobs: int, recorder: Recorder, meeting: Path
) -> None:
    with suite_of("first_waits_for_the_others", jobs) as suite:
        suite.prepare()
        assert suite.run(recorder) == 0
    assert found(recorder) == [(name, "passed", None) for name in NAMES]
    assert [line["check"] for line in recorder.run.done] == list(NAMES)


@pytest.mark.parametrize("jobs", [1, 2, None])
def test_isolation_lanes_go_on_after_a_death(jobs: int | None, recorder: Recorder) -> None:
    with suite_of("dies_after_a_result", jobs) as suite:
        suite.prepare()
        assert suite.run(recorder) == 1
    assert [(check, status) for check, status, _ in found(recorder)] == [
        ("first", "passed"),
        ("after first", "crashed"),
        ("second", "passed"),
        ("third", "passed"),
    ]
    assert (recorder.results[1].reason or "").endswith(ALONE)


def test_isolation_lanes_end_together_when_one_cannot_go_on(recorder: Recorder) -> None:
    with suite_of("dies_before_the_second_worker_works", 2) as suite:
        suite.prepare()
        with pytest.raises(PabenchError, match="a worker ended before its first check: exited with status 4"):
            suite.run(recorder)


def test_isolation_lanes_are_interrupted_together(recorder: Recorder, meeting: Path) -> None:
    def interrupt() -> None:
        while not all((meeting / name).exists() for name in NAMES):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    with suite_of("nobody_ends", 3) as suite:
        suite.prepare()
        thread = threading.Thread(target=interrupt)
        thread.start()
        assert suite.run(recorder) == EXIT_INTERRUPTED
        thread.join()
    assert [(check, status) for check, status, _ in found(recorder)] == [(n, "not-run") for n in NAMES]


def test_isolation_lanes_change_no_result(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def results(jobs: int) -> list[dict[str, Any]]:
        file = tmp_path / f"{jobs}.json"
        options = [
            "--backend",
            "rawkernel",
            "--allocator",
            "host",
            "-k",
            "append or gather or empty or guard",
        ]
        arguments = ["conformance", "--profile", "quick", "--device", "emulated", *options]
        artifacts = ["--artifacts", str(tmp_path / f"run-{jobs}"), "--json", str(file)]
        assert run([*arguments, *artifacts, "--jobs", str(jobs)]) == 0
        lines = json.loads(file.read_text())["results"]
        return [{key: value for key, value in line.items() if key != "duration_s"} for line in lines]

    alone = results(1)
    assert len(alone) > 5
    assert results(3) == alone


def test_isolation_lanes_need_worker_processes(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["conformance", "--in-process", "--jobs", "2"]) == 4
    text = "pabench: --jobs counts worker processes, must not be given with --in-process"
    assert capfd.readouterr().err.startswith(text)
