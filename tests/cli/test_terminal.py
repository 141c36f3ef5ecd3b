# SPDX-License-Identifier: Apache-2.0
"""What a terminal shows: the verdict first and in colour, and tables that keep their status at 80 columns."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pabench.activities.sweep.table import print_table
from pabench.cli.conformance_summary import summary_lines
from pabench.cli.list_command import ROWS
from pabench.cli.main import run
from pabench.cli.text_table import text_table
from pabench.console import say
from pabench.progress import make_progress
from pabench.report.verdict_line import verdict_line
from pabench.run.read import read_run
from tests.support.report_data import check, failed_check, record_of, sweep_lines, write_run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "terminal", "coloured"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({}, False, False),
    ],
)
def test_terminal_colours_the_verdict_where_that_is_wanted(
    variables: dict[str, str], terminal: bool, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    say("what \x1b[31m follows", lead="FAIL", colour="red")
    word = "\x1b[1;31mFAIL\x1b[0m" if coloured else "FAIL"
    # what a stranger wrote never reaches the terminal as a command
    assert stream.getvalue() == f"{word}  what \\u001b[31m follows\n"


def test_terminal_verdict_line_has_the_cause_first(tmp_path: Path) -> None:
    right = write_run(tmp_path / "right", "conformance", [check("mine", "decode")])
    assert verdict_line(read_run(right)) == ("PASS", "green", "1 check passed over 60 generated cases.")
    causes = {"its last key missing": "its last key missing (bound 1 in place of 2)"}
    lines = [failed_check("mine", name, causes=causes) for name in ("decode", "placement")]
    run_path = write_run(tmp_path / "wrong", "conformance", lines, exit_code=1)
    word, colour, text = verdict_line(read_run(run_path))
    assert (word, colour) == ("FAIL", "red")
    cause = "its last key missing (bound 1 in place of 2)"
    assert text == f"mine is wrong: {cause}: 2 checks, one cause. Of 2 checks, 2 failed."


def test_terminal_summary_tells_faults_first_and_counts_what_is_unsupported() -> None:
    lines = [check("mine", "decode"), failed_check("mine", "placement", reason="wrong")]
    lines += [
        check("mine", f"x{at}", status="unsupported", reason=f"mine offers no {word}", cases=0)
        for at, word in enumerate(["prefill"] * 3 + ["append"] * 2 + ["merge", "gather", "replay"])
    ]
    records = [record_of({"findings": [], "deviations": [], "missing_badges": {}, **line}) for line in lines]
    said = list(summary_lines(records, [], whole=True))
    assert said[0].startswith("FAILED mine placement: wrong")
    (unsupported,) = [line for line in said if line.startswith("UNSUPPORTED")]
    assert unsupported == (
        "UNSUPPORTED mine, 8 checks: no prefill (3), no append (2), no merge (1), "
        "and 2 more reasons in the report"
    )
    assert said[-1] == "120 generated cases, 10 checks: 1 passed, 1 failed, 0 crashed, 8 unsupported"


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_terminal_sweep_table_keeps_the_status(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines: list[dict[str, Any]] = [record_of(line).flat() for line in sweep_lines(batches=(8,))]
    lines[0] |= {"status": "failed", "reason": "the quick check failed"}
    print_table(lines)
    printed = capsys.readouterr().out.splitlines()
    assert all(len(line) <= columns for line in printed)
    rows = printed[2:11]
    assert [("failed" in row) for row in rows] == [True] + [False] * 8
    assert all("passed" in row for row in rows[1:])
    assert ("no room for: " in "\n".join(printed)) == (columns < 200)
    assert "1 failed: the quick check failed" in printed
    assert printed[0].split()[:4] == ["page", "lengths", "batch", "status"]
    print_table(lines[:1])
    assert capsys.readouterr().out.splitlines()[-1] == "1 cell: 1 failed"


def test_terminal_text_table_leaves_out_the_last_columns_by_name() -> None:
    rows = [{"name": "a" * 30, "status": "passed", "one": 1, "two": 22222}]
    whole = text_table(rows)
    assert whole.splitlines()[0].split() == ["name", "status", "one", "two"]
    cut = text_table(rows, width=42).splitlines()
    assert cut[0].split() == ["name", "status"]
    assert " ".join(cut[2:]) == "no room for: one, two; the report has all"
    kept = text_table(rows, width=42, keep=("two",)).splitlines()
    assert kept[0].split() == ["name", "two"]


def test_terminal_text_table_wraps_text_before_it_leaves_columns_out() -> None:
    about = "what it does, in more words than a line of the screen has room for"
    rows = [
        {"name": "mine", "runs": "something 1.2.3", "about": about},
        {"name": "x", "runs": "", "about": "-"},
    ]
    lines = text_table(rows, width=48).splitlines()
    assert max(map(len, lines)) <= 48
    assert " ".join(line[23:].strip() for line in lines[1:-1]) == about
    assert lines[-1].split() == ["x", "-"]


@pytest.mark.parametrize("what", sorted(ROWS))
def test_terminal_lists_fit_80_columns(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    # a path of a resource is as long as it is
    assert what == "resources" or max(map(len, lines)) <= 80
    rows = ROWS[what]()
    assert not rows or "about" not in rows[0] or any("about" in line.split() for line in lines)


@pytest.mark.parametrize("terminal", [False, True])
def test_terminal_progress_has_no_line_for_what_is_unsupported(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    done = {"a": ("passed", None), "b": ("unsupported", "offers no b"), "c": ("failed", "no last key")}
    with make_progress(4) as progress:
        for name, (status, why) in done.items():
            item = SimpleNamespace(label=f"item {name}")
            progress.start(item)
            progress.done(item, status, why, 0.1)
    said = stream.getvalue()
    assert "item c" in said
    assert "no last key" in said
    assert "offers no b" not in said
    if not terminal:
        assert [line[:5] for line in said.splitlines()] == ["[1/4]", "[3/4]"]


def test_terminal_json_of_commands_has_schema_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    from pabench import __version__

    assert run(["list", "lengths", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    stamp = {name: told[name] for name in ("schema", "pabench", "kind", "list")}
    assert stamp == {"schema": 1, "pabench": __version__, "kind": "list", "list": "lengths"}
    assert told["rows"]
