# SPDX-License-Identifier: Apache-2.0
"""pabench serving: allocators that break, interrupts, and runs that go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pabench.activities.serving import plug
from pabench.activities.serving.columns import write_columns
from pabench.cli.main import run
from pabench.errors import EnvironmentRefused
from pabench.run.read import read_run
from pabench.subjects.allocators.table import ALLOCATORS
from tests.support.serving_support import asked, pool
from tests.support.serving_support import run as served
from tests.support.serving_work import BROKEN, BrokenServing

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["--lengths", "uniform:low=1,high=60", "--outputs", "fixed:len=9", "--pool-slots", "1024"]
SMALL += ["--max-seqs", "8", "--requests", "30"]
LONG = ["--lengths", "fixed:len=500", "--outputs", "fixed:len=400", "--requests", "200000"]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allocators that break, by name: here, and in the worker."""
    for name, entry in BROKEN.items():
        monkeypatch.setitem(ALLOCATORS, name, entry)
    monkeypatch.setattr(plug, "Serving", BrokenServing)


WORK = ROOT / "tests" / "support" / "serving_work.py"


def test_serving_that_does_not_get_all_pages_back_fails_with_its_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, losing = tmp_path / "run", f"{WORK}:Losing"
    assert run(["serving", *SMALL, "--allocator", losing, "--in-process", "--out", str(out)]) == 1
    record = read_run(out).records[0]
    assert str(record.status) == "failed"
    assert (record.reason or "").startswith("invariant 13: 6")
    assert record.failure is not None
    capsys.readouterr()
    # three frees are the least that break it
    folder = next((out / "failures").iterdir())
    history = json.loads((folder / "case.json").read_text())["case"]
    assert sum(name == "free" for name, _ in history["operations"]) == 3
    assert run(["replay", str(folder), "--backend", losing, "--in-process"]) == 1
    assert "invariant 1" in capsys.readouterr().out


def test_serving_asks_for_cached_pages_too(tmp_path: Path) -> None:
    out, keeping = tmp_path / "run", f"{WORK}:Keeping"
    words = ["--allocator", keeping, "--prefix-cache", "--in-process", "--out", str(out)]
    assert run(["serving", *SMALL, *words]) == 1
    record = read_run(out).records[0]
    assert ", must be 64 together" in (record.reason or "")
    # a history holds no prompts
    assert record.failure is None


@pytest.mark.usefixtures("broken")
def test_serving_goes_on_behind_allocators_that_break(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = [word for name in (*BROKEN, "host") for word in ("--allocator", name)]
    assert run(["serving", *SMALL, *words, "--deadline", "5", "--out", str(out)]) == 1
    found = read_run(out).records
    assert [(record.subject.name, str(record.status)) for record in found] == [
        ("raises", "crashed"),
        ("crashes", "crashed"),
        ("hangs", "hung"),
        ("host", "passed"),
    ]
    raised, crashed, hung = (record.reason or "" for record in found[:3])
    assert raised.startswith("KeyError: 'no such sequence' in free (serving_work.py:")
    assert crashed.startswith("aborted (SIGABRT) in free (serving_work.py:")
    assert hung.startswith("hung: no progress for 5 s in free (serving_work.py:")
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert f"raises at page size 16: crashed: {raised}" in said.out
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "FAIL" in page
    assert "serving_work.py" in page


@pytest.mark.usefixtures("broken")
def test_serving_in_process_goes_on_too_and_saves_what_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["--allocator", "raises", "--allocator", "host", "--check-steps", "1", "--in-process"]
    assert run(["serving", *SMALL, *words, "--out", str(out)]) == 1
    first, second = read_run(out).records
    assert [str(first.status), str(second.status)] == ["crashed", "passed"]
    assert first.failure is not None
    # one sequence comes and goes
    assert run(["replay", str(out / first.failure.path), "--in-process"]) == 1
    assert "KeyError" in capsys.readouterr().out


def start(out: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pabench", "serving", *words, "--out", str(out)],
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serving_interrupted_is_closed_and_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    words = ["--allocator", "host", "--allocator", "model", "--lengths", "fixed:len=50", "--outputs"]
    words += ["fixed:len=40", "--requests", "1500", "--pool-slots", "1024", "--max-seqs", "4"]
    process = start(out, *words)
    deadline = time.monotonic() + 300
    journal = out / "journal.jsonl"
    while not (journal.exists() and journal.read_bytes().count(b"\n") == 1):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    time.sleep(0.5)  # well within the second server, which is slow
    process.send_signal(number)
    shown, errors = process.communicate(timeout=300)
    assert process.returncode == 2, errors
    assert "interrupted: 1 of 2 servers are in" in errors
    assert "Traceback" not in errors
    stored = read_run(out)
    assert (stored.record["status"], stored.record["exit_code"]) == ("interrupted", 2)
    assert [str(record.status) for record in stored.records] == ["passed", "interrupted"]
    assert (out / "report.html").is_file()
    assert f"report: {out / 'report.html'}" in shown
    first = stored.records[0]
    assert run(["serving", *words, "--resume", "--out", str(out)]) == 0
    again = read_run(out)
    assert (again.record["status"], again.record["exit_code"]) == ("finished", 0)
    assert [str(record.status) for record in again.records] == ["passed", "passed"]
    assert again.records[0] == first, "what is done is not done again"
    assert len(list((out / "columns").glob("*.npz"))) == 2


def test_serving_interrupt_reaches_the_worker(tmp_path: Path) -> None:
    """A server that would take minutes is stopped at once."""
    out = tmp_path / "run"
    process = start(out, *LONG)
    deadline = time.monotonic() + 300
    while not (out / "journal.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert [str(record.status) for record in read_run(out).records] in ([], ["interrupted"])


def test_serving_resume_refuses_another_workload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, trace = tmp_path / "run", tmp_path / "trace.csv"
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    trace.write_text(head + "2023-11-16 18:00:00.0,90,5\n", encoding="utf-8")
    words = ["serving", "--trace", str(trace), "--pool-slots", "1024", "--out", str(out)]
    assert run(words) == 0
    assert run([*words, "--resume"]) == 0
    for more, message in ((["--token-budget", "7"], "token_budget"), (["--seed", "3"], "seed")):
        assert run([*words, *more, "--resume"]) == 4
        assert f"--resume: {message} = " in capsys.readouterr().err
    trace.write_text(head + "2023-11-16 18:00:00.0,91,5\n", encoding="utf-8")
    assert run([*words, "--resume"]) == 4
    assert "--resume: workload_id = " in capsys.readouterr().err


def test_serving_budget_starts_no_further_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run(["serving", *SMALL, "--page-sizes", "8,16", "--budget", "0.001s", "--out", str(out)]) == 0
    assert "1 of 2 servers not run: the budget is spent" in capsys.readouterr().out
    assert len(read_run(out).records) == 1


def test_serving_dry_run_names_servers_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--page-sizes", "8,16", "--dry-run", "--out", str(tmp_path / "run")]
    assert run(["serving", *SMALL, *words]) == 0
    said = capsys.readouterr().out
    assert "host under fcfs, page size 8" in said
    assert "2 servers on device" in said
    assert not (tmp_path / "run").exists()


def test_serving_names_the_device_that_an_allocator_ran_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--allocator", "scan", "--requests", "3", "--lengths", "fixed:len=9", "--outputs", "fixed:len=2"]
    assert run(["serving", *words, "--pool-slots", "64", "--device", "emulated", "--out", str(out)]) == 0
    stored = read_run(out)
    assert stored.records[0].device == stored.record["provenance"]["device"]["name"] == "emulated"
    assert "emulated CUDA device" in stored.record["provenance"]["device"]["description"]


def test_serving_imports_no_torch(tmp_path: Path) -> None:
    words = ["serving", *SMALL, "--in-process", "--out", str(tmp_path / "run")]
    program = (
        "import sys; from pabench.cli.main import run; "
        f"code = run({words!r}); print('torch' in sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"


def test_columns_that_cannot_be_written_are_said(tmp_path: Path) -> None:
    requests = asked((5, 3))
    (tmp_path / "columns").write_text("a file", encoding="utf-8")
    with pytest.raises(EnvironmentRefused, match="cannot write"):
        write_columns(tmp_path / "columns", "a", requests, served(requests, pool()))
