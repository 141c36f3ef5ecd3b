# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from pabench.cli import main as main_module
from pabench.cli.list_command import IN_JSON
from pabench.cli.main import COMMANDS, LazyGroup, run
from pabench.errors import (
    CompileError,
    EnvironmentRefused,
    InvalidCase,
    PabenchError,
    UnknownName,
    Unsupported,
    UsageError,
)

HEAVY = ("torch", "pandas", "cupy", "jinja2", "hypothesis", "numpy", "pabench.run.options")
ROOT = Path(__file__).resolve().parents[2]


def _pabench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pabench", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


def test_cli_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom pabench.cli.main import run\ncode = run(['--help'])\n"
        f"print('loaded', code, [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    assert result.stderr.splitlines()[-1] == "loaded 0 []"
    for name, about in COMMANDS.items():
        assert name in result.stdout
        assert about.split()[0] in result.stdout


def test_cli_judges_and_writes_its_page_without_pandas() -> None:
    """It takes a third of a second to load, and only tables for notebooks and exports want it."""
    program = (
        "import sys\nimport pabench.activities.conformance.plug, pabench.report.render\n"
        "print([name for name in ('pandas', 'scipy', 'torch', 'cupy') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    assert result.stdout == "[]\n"


def test_cli_without_arguments_shows_help() -> None:
    result = _pabench()
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: pabench")


def test_cli_version() -> None:
    result = _pabench("--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("pabench, version 0.")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["docter"], "unknown command 'docter'; did you mean 'doctor'?"),
        (["list", "legnths"], "unknown list 'legnths'; did you mean 'lengths'?"),
        (["list", "lengths", "more"], "unexpected extra argument"),
        (["doctor", "--stict"], "No such option"),
        (["--nope"], "No such option"),
    ],
)
def test_cli_usage_errors_are_one_line(arguments: list[str], text: str) -> None:
    result = _pabench(*arguments)
    assert result.returncode == 4
    assert result.stdout == ""
    assert result.stderr.startswith("pabench: ")
    assert text.lower() in result.stderr.lower()
    assert len(result.stderr.splitlines()) == 1


ERRORS: list[tuple[BaseException, int]] = [
    (PabenchError("x"), 3),
    (UsageError("x"), 4),
    (InvalidCase("page_size", 0, "must be at least 1"), 4),
    (UnknownName("gpu", "h10", ["h100"]), 4),
    (Unsupported("x"), 5),
    (EnvironmentRefused("x"), 7),
    (CompileError("x"), 1),
    (RuntimeError("two\nlines"), 3),
    (KeyboardInterrupt(), 2),
    (click.Abort(), 2),
    (click.UsageError("x"), 4),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda v: type(v).__name__)
def test_cli_exit_code_of_each_error(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.delenv("PABENCH_TRACEBACK", raising=False)
    monkeypatch.setattr(main_module.cli, "main", fail)
    assert run(["doctor"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pabench: ")
    assert captured.err.count("\n") == 1


def test_cli_exit_code_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for returned, code in ((None, 0), (0, 0), (1, 1), (6, 6)):
        monkeypatch.setattr(main_module.cli, "main", lambda returned=returned, **_: returned)
        assert run(["doctor"]) == code


def test_cli_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("x")

    monkeypatch.setenv("PABENCH_TRACEBACK", "1")
    monkeypatch.setattr(main_module.cli, "main", fail)
    with pytest.raises(RuntimeError):
        run(["doctor"])


def test_cli_list_names_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list"]) == 0
    names = capsys.readouterr().out.split()
    assert {"backends", "devices", "lengths", "families", "dtypes", "placements", "resources"} <= set(names)
    assert run(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == names


@pytest.mark.parametrize("what", ["backends", "devices", "families", "dtypes", "placements", "gpus"])
def test_cli_list_text_and_json_agree(
    what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert run(["list", what, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert run(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [row["name"] for row in rows] == [line.split()[0] for line in lines[1:]]
    assert lines[0].split() == [name for name in rows[0] if name not in IN_JSON]


def test_cli_list_lengths_sketches_each_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "lengths", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert {"fixed", "one-long", "azure-conv", "azure-conv-prompt", "arxiv-summarization"} <= set(rows)
    assert rows["fixed"]["sketch"] == " " * 10 + "█" + " " * 7
    assert rows["fixed"]["mean"] == rows["fixed"]["p99"] == 1024
    assert all(len(row["sketch"]) == 18 and "█" in row["sketch"] for row in rows.values())
    result = _pabench("list", "lengths", PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert result.stdout.isascii()


def test_cli_doctor_tells_what_is_here() -> None:
    result = _pabench("doctor", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    facts = json.loads(result.stdout)
    assert facts["packages"]["numpy"]
    assert Path(facts["pabench"]["path"]) == ROOT / "pabench"
    assert facts["resources"]["suites"]["files"] > 5
    assert "rawkernel" in facts["backends"]
    text = _pabench("doctor").stdout
    for part in facts.keys() - {"schema", "kind"}:
        assert f"\n{part} " in "\n" + text


def test_cli_doctor_strict_without_compiler_or_gpu(tmp_path: Path) -> None:
    nothing = {"PATH": str(tmp_path), "CXX": "no-such-compiler", "CUDA_VISIBLE_DEVICES": ""}
    result = _pabench("doctor", "--json", **nothing)
    assert result.returncode == 0
    facts = json.loads(result.stdout)
    assert facts["devices"] == []
    assert "no-such-compiler" in facts["compiler"]["problem"]
    strict = _pabench("doctor", "--strict", **nothing)
    assert strict.returncode == 7
    assert len(strict.stderr.splitlines()) == 1
    assert "no device works" in strict.stderr
    assert "none works here" in strict.stdout


def test_cli_doctor_cache_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    facts = json.loads(_pabench("doctor", "--json", PABENCH_CACHE=str(blocked / "cache")).stdout)
    assert facts["cache"]["path"] == str(blocked / "cache")
    assert "cannot be written" in facts["cache"]["problem"]


def test_cli_list_checks_names_every_check_of_the_suite(capsys: pytest.CaptureFixture[str]) -> None:
    from pabench.checks.suite import QUESTIONS
    from pabench.subjects.backends.base import DUMMY_LENGTHS, HUGE_POOL_WRITES, LAYERS, OPTIONAL, PADDED_ROWS

    assert run(["list", "checks", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["name"] for row in rows} == {question.check.id for question in QUESTIONS}
    assert all(row["about"].endswith(".") and "\n" not in row["about"] for row in rows)
    judged = {
        "decode",
        "speculative",
        "prefill",
        "append",
        "replay",
        LAYERS,
        DUMMY_LENGTHS,
        PADDED_ROWS,
        "allocator",
        HUGE_POOL_WRITES,
        *OPTIONAL,
    }
    assert {row["judges"] for row in rows} == judged


def test_cli_list_allocators_are_those_that_can_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    from pabench.device.emulated import EmulatedDevice
    from pabench.subjects.allocators.base import PoolShape
    from pabench.subjects.allocators.table import ALLOCATORS
    from tests.support.allocator_support import make_allocator

    assert run(["list", "allocators", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    shape = PoolShape(num_pages=2, page_size=1, max_seqs=1, max_pages_per_seq=2)
    assert [row["name"] for row in rows] == list(ALLOCATORS)
    # the packages of others need not be here; tests/subjects/allocators/test_peers.py makes those
    ours = [name for name, entry in ALLOCATORS.items() if not entry.peers]
    made = [make_allocator(name, EmulatedDevice(), shape) for name in ours]
    assert [allocator.name for allocator in made] == ours


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_cli_signal_while_a_command_is_imported_is_told(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(*_: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(30)

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        monkeypatch.setattr(LazyGroup, "get_command", slow)
        assert run(["sweep"]) == 2
        # click ends the line in which the terminal shows ^C
        assert capsys.readouterr().err.strip() == "pabench: interrupted"
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
