# SPDX-License-Identifier: Apache-2.0
"""The engine, by way of the smallest plug of docs/examples: what every activity has for nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

import pabench
from pabench.cores import usable_cores
from pabench.errors import EnvironmentRefused, PabenchError, UsageError
from pabench.progress import PlainProgress
from pabench.run import directory as directories
from pabench.run.bench_worker import make_bench
from pabench.run.command import run_activity
from pabench.run.directory import RunDirectory
from pabench.run.engine import Engine, Finished
from pabench.run.options import Options, default_jobs, options_of
from pabench.run.plug import Answer, Env, Facts, FailingCase
from pabench.run.read import read_run
from pabench.run.record import Record, Status, exit_code

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "toy_activity.py"
TOY: Any = ModuleType("toy_activity")
TOY.__file__ = str(EXAMPLE)
sys.modules["toy_activity"] = TOY
exec(compile(EXAMPLE.read_text(encoding="utf-8"), str(EXAMPLE), "exec"), TOY.__dict__)
HERE = Path(__file__).resolve()


def toy(*words: str) -> list[str]:
    return [sys.executable, str(EXAMPLE), *words]


def run_toy(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        toy(*words), cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def run_plug(plug: Any, folder: Path, *, deadline_s: float | None = 30.0, **options: Any) -> Finished:
    with Engine(plug, deadline_s=deadline_s, jobs=options.pop("jobs", 1)) as engine:
        facts = engine.prepare()
        if (folder / "run.json").exists():
            directory = RunDirectory.open(folder, kind="toy")
        else:
            directory = RunDirectory.create(folder, kind="toy", command="toy", config={}, provenance={})
        with directory:
            return engine.run(plug.items(facts), directory, **options)


def states(folder: Path) -> dict[str, str]:
    return {record.subject.name: str(record.status) for record in read_run(folder).records}


def test_example_is_short() -> None:
    assert EXAMPLE.read_text(encoding="utf-8").count("\n") < 80


def test_example_tells_each_end_from_the_others_and_reports(tmp_path: Path) -> None:
    words = ["level", "word", "crash", "hang", "noon"]
    files = ["--json", "r.json", "--junit", "r.xml", "--html", "r.html"]
    done = run_toy(tmp_path, *words, "--out", "run", "--deadline", "2", *files)
    assert done.returncode == 1, done.stderr
    out = tmp_path / "run"
    assert states(out) == {
        **{"level": "passed", "word": "failed", "crash": "crashed", "hang": "hung", "noon": "passed"}
    }
    reasons = {record.subject.name: record.reason or "" for record in read_run(out).records}
    assert reasons["crash"].startswith("aborted (SIGABRT) in run (toy_activity.py:")
    assert reasons["hang"].startswith("hung: no progress for 2 s in run (toy_activity.py:")
    assert "FAILED palindrome/word: not a palindrome" in done.stdout
    assert "5 items: 2 passed, 1 failed, 1 crashed, 1 hung" in done.stdout
    record = read_run(out).record
    assert (record["status"], record["exit_code"], record["schema"]) == ("finished", 1, 2)
    for page in (out / "report.html", tmp_path / "r.html"):
        text = page.read_text()
        assert "What else was asked" in text
        assert "length_bytes 5.00 bytes" in text
        assert "not a palindrome" in text
    told = json.loads((tmp_path / "r.json").read_text())
    assert (told["kind"], told["exit_code"], told["totals"]["hung"]) == ("toy", 1, 1)
    assert [line["id"] for line in told["records"]] == [f"palindrome/{word}" for word in words]
    (suite,) = ElementTree.parse(tmp_path / "r.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("5", "1", "2")
    frame = pabench.read(out)
    assert list(frame["length_bytes"].dropna()) == [5, 4, 4]


def test_example_passes_and_finds_nothing_to_do(tmp_path: Path) -> None:
    assert run_toy(tmp_path, "noon", "--out", "right").returncode == 0
    nothing = run_toy(tmp_path, "--out", "nothing")
    assert nothing.returncode == 5, nothing.stderr
    assert "0 items: nothing ran" in nothing.stdout
    assert (tmp_path / "nothing" / "report.html").is_file()


@pytest.mark.parametrize("place", ["_locked", "validate_run"])
def test_example_stopped_while_the_folder_is_made_is_closed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    before = getattr(directories, place)
    sent: list[signal.Signals] = []

    def stopped(*given: Any) -> Any:
        made = before(*given)
        if not sent:
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), sent[0])
        return made

    monkeypatch.setattr(directories, place, stopped)
    out = tmp_path / "run"
    given = {"resume": False, "overwrite": False, "in_process": False, "dry_run": False, "out": str(out)}
    assert run_activity(TOY.Toy(["noon"]), options_of("toy", given)) == 2
    run = read_run(out)
    assert (run.record["status"], run.record["exit_code"]) == ("interrupted", 2)
    assert not run.records
    assert (out / "report.html").is_file()


def test_engine_stopped_while_its_shards_begin_waits_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    sent: list[threading.Thread] = []

    def stopped(thread: threading.Thread) -> None:
        if threading.current_thread() is threading.main_thread() and not sent:
            sent.append(thread)
            os.kill(os.getpid(), signal.SIGTERM)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", stopped)
    found = run_plug(TOY.Toy(["noon", "level"]), tmp_path / "run", jobs=2)
    assert sent
    assert (found.interrupted, found.exit_code) == (True, 2)
    assert read_run(tmp_path / "run").record["status"] == "interrupted"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_example_stopped_by_a_signal_is_closed_reported_and_resumed(tmp_path: Path, name: str) -> None:
    words = ["level", "hang", "noon", "--out", "run", "--jobs", "1"]
    process = subprocess.Popen(
        toy(*words),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    journal, end = tmp_path / "run" / "journal.jsonl", time.monotonic() + 120
    while not journal.exists() or not journal.read_bytes():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.Signals[name])
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2, error
    assert "interrupted: 1 of 3 items are in run; go on with: python" in error
    record = read_run(tmp_path / "run").record
    assert (record["status"], record["exit_code"]) == ("interrupted", 2)
    assert states(tmp_path / "run") == {"level": "passed", "hang": "interrupted"}
    assert (tmp_path / "run" / "report.html").is_file()
    resumed = run_toy(tmp_path, *words, "--resume", "--deadline", "1")
    assert resumed.returncode == 1, resumed.stderr
    assert states(tmp_path / "run") == {"level": "passed", "hang": "hung", "noon": "passed"}
    assert [record.subject.name for record in read_run(tmp_path / "run").records] == ["level", "hang", "noon"]


def test_example_closed_standard_output_does_not_end_the_run(tmp_path: Path) -> None:
    line = " ".join(toy("level", "noon", "--out", "run")) + " | head -0; exit ${PIPESTATUS[0]}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, check=False, timeout=300)
    assert done.returncode == 0
    assert (tmp_path / "run" / "report.html").is_file()


class Quiet(PlainProgress):
    """Says nothing."""

    def done(self, item: Any, status: str, why: str | None, seconds: float | None) -> None:
        pass


def test_engine_says_what_each_item_took_though_the_next_has_begun(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = PlainProgress(2)
    first, second = (SimpleNamespace(label=word) for word in ("level", "noon"))
    display.start(first)
    display.start(second)
    display.done(first, "passed", None, 2.94)
    display.done(second, "passed", None, None)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("[1/2] level  passed  2.9 s, ")
    assert lines[1] == "[2/2] noon  passed  0 s left"


def test_engine_resumes_with_what_is_missing(tmp_path: Path) -> None:
    first = run_plug(TOY.Toy(["level", "word"]), tmp_path / "run")
    assert (first.exit_code, len(first.records)) == (1, 2)
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    again = run_plug(TOY.Toy(["level", "word", "noon"]), tmp_path / "run")
    assert [record.subject.name for record in again.records] == ["level", "word", "noon"]
    assert (tmp_path / "run" / "journal.jsonl").read_bytes().startswith(before)


def test_engine_budget_leaves_items_for_later(tmp_path: Path) -> None:
    words = ["level", "noon", "civic"]
    short = run_plug(TOY.Toy(words), tmp_path / "run", ends_at=time.monotonic() - 1)
    assert (len(short.records), short.not_run, short.exit_code) == (1, 2, 0)
    assert read_run(tmp_path / "run").record["not_run"] == 2
    rest = run_plug(TOY.Toy(words), tmp_path / "run")
    assert (len(rest.records), rest.not_run) == (3, 0)


@pytest.mark.parametrize(("failures", "ran"), [(1, 2), (2, 4), (3, 5)])
def test_engine_stops_after_so_many_failures(tmp_path: Path, failures: int, ran: int) -> None:
    words = ["level", "word", "noon", "crash", "civic"]
    found = run_plug(TOY.Toy(words), tmp_path / "run", max_failures=failures)
    assert [record.subject.name for record in found.records] == words[:ran]
    assert (found.not_run, found.exit_code) == (5 - ran, 1)
    assert found.why_not == (f"--maxfail {failures}" if ran < 5 else "")
    rest = run_plug(TOY.Toy(words), tmp_path / "run", max_failures=2)
    assert [record.subject.name for record in rest.records] == words


@pytest.mark.parametrize("jobs", [1, 3])
def test_engine_writes_records_in_the_order_of_the_items(tmp_path: Path, jobs: int) -> None:
    words = ["sleepy", "level", "noon", "crash", "civic"]
    run_plug(Slow(words), tmp_path / "run", jobs=jobs)
    assert list(states(tmp_path / "run")) == words


class SlowBench(TOY.ToyBench):  # type: ignore[misc]
    """Sleeps over some words, raises at others, and announces cases."""

    def ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"asked": dict(what)}

    def run(self, item: Mapping[str, Any]) -> Answer:
        text = item["text"]
        if text == "sleepy":
            time.sleep(0.5)
        if text == "raises":
            raise ValueError("no such word")
        if text == "refuses":
            raise EnvironmentRefused("no paper left", hint="buy some")
        found: Answer = super().run(item)
        if text == "wrong":
            case = FailingCase(check="reads[both ways]", kind="history", case={"word": text}, id="00ff")
            return replace(found, failing=case)
        return found


class DyingBench(SlowBench):
    """Announces a case and dies of it."""

    def __init__(self, setup: Mapping[str, Any], env: Env) -> None:
        self._env = env
        super().__init__(setup, env)

    def run(self, item: Mapping[str, Any]) -> Answer:
        self._env.case(FailingCase(check="reads", kind="history", case={"word": item["text"]}, id="ab"))
        os._exit(3)


class Slow(TOY.Toy):  # type: ignore[misc]
    """The toy with another bench."""

    bench = f"{HERE}:SlowBench"

    def replay_words(self, record: Record) -> Sequence[str]:
        return ("--backend", "a b.py:f")


class Dying(Slow):
    """Likewise."""

    bench = f"{HERE}:DyingBench"


def test_engine_makes_a_record_of_what_a_bench_raises(tmp_path: Path) -> None:
    found = run_plug(Slow(["raises", "level"]), tmp_path / "run")
    assert [str(record.status) for record in found.records] == ["crashed", "passed"]
    reason = found.records[0].reason or ""
    assert reason.startswith("ValueError: no such word (test_engine.py:")


def test_engine_ends_in_order_when_the_machine_gives_out(tmp_path: Path) -> None:
    with pytest.raises(PabenchError, match="no paper left") as refused:
        run_plug(Slow(["level", "refuses", "noon"]), tmp_path / "run")
    assert (refused.value.exit_code, refused.value.hint) == (7, "buy some")
    record = read_run(tmp_path / "run").record
    assert (record["status"], record["exit_code"]) == ("interrupted", 7)
    assert states(tmp_path / "run") == {"level": "passed"}


@pytest.mark.parametrize(("plug", "text"), [(Slow, "wrong"), (Dying, "level")])
def test_engine_saves_the_failing_case(tmp_path: Path, plug: type[Any], text: str) -> None:
    (record,) = run_plug(plug([text]), tmp_path / "run").records
    assert record.failure is not None
    folder = tmp_path / "run" / record.failure.path
    saved = json.loads((folder / "case.json").read_text())
    assert (saved["case"], saved["subject"], saved["device"]) == ({"word": text}, text, "none")
    assert (folder / "verdict.txt").read_text() == f"{record.reason}\n"
    assert record.failure.replay == f"pabench replay {folder} --backend 'a b.py:f'"


def test_engine_asks_the_bench_and_runs_here_without_processes(tmp_path: Path) -> None:
    for deadline_s in (None, 30.0):
        with Engine(Slow(["level"]), deadline_s=deadline_s) as engine:
            assert engine.prepare() == Facts(
                device="none", description="no device", more={"device": "none", "description": "no device"}
            )
            assert engine.ask({"colour": "red"}) == {"asked": {"colour": "red"}}
    found = run_plug(TOY.Toy(["level", "word"]), tmp_path / "run", deadline_s=None)
    assert [str(record.status) for record in found.records] == ["passed", "failed"]


def test_engine_refuses_a_plug_that_is_not_whole() -> None:
    class Halfway(TOY.Toy):  # type: ignore[misc]
        bench = f"{HERE}:Nobody"

    with Engine(Halfway(["level"]), deadline_s=30.0) as engine, pytest.raises(PabenchError, match="Nobody"):
        engine.prepare()
    with pytest.raises(PabenchError, match="absent"):
        make_bench("pabench.absent:Bench")


@pytest.mark.parametrize(
    ("statuses", "options", "code"),
    [
        (["passed"], {}, 0),
        (["known-failure", "unsupported"], {}, 0),
        (["passed", "failed"], {}, 1),
        (["passed", "crashed"], {}, 1),
        (["passed", "hung"], {}, 1),
        (["passed", "hung"], {"hang_is_result": True}, 0),
        (["hung"], {"hang_is_result": True}, 0),
        (["hung", "failed"], {"hang_is_result": True}, 1),
        (["passed", "inconclusive"], {}, 6),
        (["inconclusive", "failed"], {}, 1),
        (["unsupported"], {}, 5),
        ([], {}, 5),
        (["failed"], {"interrupted": True}, 2),
        (["passed", "interrupted"], {}, 2),
    ],
)
def test_exit_code_is_one_rule(statuses: list[str], options: dict[str, bool], code: int) -> None:
    assert exit_code(map(Status, statuses), **options) == code


GIVEN: dict[str, Any] = {
    **dict.fromkeys(("out", "resume", "overwrite", "device", "kernels", "checked", "inputs", "seed")),
    **dict.fromkeys(("deadline", "in_process", "jobs", "budget", "json_file", "junit", "html", "dry_run")),
}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"deadline": "soon"}, "--deadline 'soon': must be a time such as 540s"),
        ({"deadline": "0"}, "--deadline '0': must be a time such as"),
        ({"deadline": "nan"}, "--deadline 'nan': must be a time such as"),
        ({"budget": "9 weeks"}, "--budget '9 weeks': must be a time such as 540s, 9m or 1.5h"),
        ({"maxfail": "0"}, "--maxfail '0': must be a whole number from 1 to"),
        ({"maxfail": "2", "first": True}, "-x is --maxfail 1: give one of them"),
        ({"jobs": "0"}, "--jobs '0': must be a whole number from 1 to 256"),
        ({"jobs": "٣"}, "--jobs '٣': must be a whole number"),
        ({"seed": "-1"}, "--seed '-1': must be a whole number from 0"),
        ({"seed": "1_0"}, "--seed '1_0': must be a whole number"),
        ({"jobs": "2", "in_process": True}, "--jobs needs worker processes"),
        ({"deadline": "2", "in_process": True}, "--deadline needs worker processes"),
        ({"resume": True}, "--resume: needs the folder of the run"),
        ({"resume": True, "overwrite": True, "out": "x"}, "give one of them"),
        ({"out": ""}, "--out: '' must be the name of a folder"),
        (
            {"json_file": Path("absent/x.json")},
            "--json 'absent/x.json': must be a file in an existing folder",
        ),
        ({"html": Path()}, "--html '.': must be a file"),
        ({"junit": Path("x" * 300)}, "file name too long"),
        ({"kernels": Path("k")}, "--kernels: pabench toy has no use for it"),
    ],
)
def test_options_that_cannot_be_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        options_of("toy", {**GIVEN, **given}, without=("kernels",))
    assert words in str(refused.value)


def test_options_are_read_as_they_are_said() -> None:
    said = {"deadline": "2.5", "budget": "1.5m", "jobs": "3", "seed": "7", "out": "run", "dry_run": True}
    found = options_of("toy", {**GIVEN, **said})
    assert found == Options(deadline_s=2.5, budget_s=90.0, jobs=3, seed=7, out=Path("run"), dry_run=True)
    assert options_of("toy", {**GIVEN, "first": True}) == options_of("toy", {**GIVEN, "maxfail": "1"})
    assert options_of("toy", {**GIVEN, "maxfail": "3"}).maxfail == 3


def test_jobs_by_default_are_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PABENCH_JOBS", "")
    assert default_jobs() == min(usable_cores(), 8)
    monkeypatch.setenv("PABENCH_JOBS", "11")
    assert default_jobs() == 11
    for wrong in ("0", "two"):
        monkeypatch.setenv("PABENCH_JOBS", wrong)
        with pytest.raises(UsageError, match=f"PABENCH_JOBS '{wrong}': must be a whole number from 1 to 256"):
            default_jobs()


def test_overwrite_removes_a_run_and_nothing_else(tmp_path: Path) -> None:
    run_plug(TOY.Toy(["word"]), tmp_path / "run")
    options = Options(out=tmp_path / "run", overwrite=True, in_process=True)
    assert run_activity(TOY.Toy(["level"]), options) == 0
    assert list(states(tmp_path / "run")) == ["level"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        run_activity(TOY.Toy(["level"]), replace(options, out=tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = Options(out=tmp_path / "run", dry_run=True, in_process=True)
    assert run_activity(TOY.Toy(["level", "noon"]), options) == 0
    assert "2 items on device none; nothing was written" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
