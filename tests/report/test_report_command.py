# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from pabench.cli.main import run
from tests.support.report_data import conformance_lines, sweep_lines, write_run


def test_report_command_writes_beside_the_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path / "run", "sweep", sweep_lines(batches=(8,)))
    assert run(["report", str(path)]) == 0
    assert capsys.readouterr().out == f"{path / 'report.html'}\n"
    assert (path / "report.html").read_text().startswith("<!doctype html>")


def test_report_command_merges_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write_run(tmp_path / "one", "sweep", sweep_lines(batches=(8,)))
    two = write_run(tmp_path / "two", "conformance", conformance_lines())
    monkeypatch.chdir(tmp_path)
    assert run(["report", str(one), str(two)]) == 0
    assert capsys.readouterr().out == "report.html\n"
    html = (tmp_path / "report.html").read_text()
    assert 'id="conformance"' in html
    assert 'id="sweep"' in html
    assert not (one / "report.html").exists()


BAD = {
    "no run": ([], "no run given"),
    "absent": (["{tmp}/absent"], "does not exist"),
    "not a run": (["{tmp}"], "it has no run.json"),
    "bad record": (["{tmp}/record"], "run.json:1: not JSON"),
    "bad line": (["{tmp}/line"], "journal.jsonl:1: column 1: not JSON"),
    "out is a folder": (
        ["{tmp}/good", "--out", "{tmp}"],
        "existing folder, is a folder",
    ),
    "out in nowhere": (["{tmp}/good", "--out", "{tmp}/no/r.html"], "must be a file in an existing folder"),
    "second is bad": (["{tmp}/good", "{tmp}/line", "--out", "{tmp}/r.html"], "not JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_report_command_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    write_run(tmp_path / "good", "sweep", [])
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "run.json").write_text("nope")
    (write_run(tmp_path / "line", "sweep", []) / "journal.jsonl").write_text("nope\n")
    arguments, message = BAD[name]
    assert run(["report", *(a.replace("{tmp}", str(tmp_path)) for a in arguments)]) == 4
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert message in said.err
    assert not list(tmp_path.rglob("*.html"))
