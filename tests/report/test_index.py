# SPDX-License-Identifier: Apache-2.0
"""``pabench report --index``: a folder of runs as one page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pabench.cli.main import run
from pabench.report.index import build_series, read_folder
from tests.report.test_answers import Tables
from tests.support.report_data import cell, check, failed_check, sweep_lines, write_run


def folder_of(tmp_path: Path) -> Path:
    """Three runs of one sweep, of another grid one, two of a conformance run, one that is damaged."""
    folder = tmp_path / "runs"
    for day in (1, 2, 3):
        lines = [{**line, "kv_bytes": line["kv_bytes"] + 1000 * day} for line in sweep_lines(batches=(8,))]
        write_run(folder / f"sweep-{day}", "sweep", lines, started=f"2026-03-0{day}T12:00:00Z")
    other = [cell(8, "azure-conv", batch) for batch in (2, 4)]
    write_run(folder / "deep" / "grid", "sweep", other, started="2026-02-01T12:00:00Z")
    started = "2026-03-04T12:00:00Z"
    write_run(folder / "right", "conformance", [check("mine", "decode"), check("mine", "batch")])
    lines = [failed_check("mine", "decode"), check("mine", "batch")]
    write_run(folder / "wrong", "conformance", lines, exit_code=1, started=started)
    write_run(folder / "torn", "sweep", [])
    (folder / "torn" / "run.json").write_text("{")
    return folder


def test_index_lists_runs_newest_first_with_their_verdicts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path)
    (folder / "wrong" / "report.html").write_text("<p>")
    assert run(["report", "--index", str(folder)]) == 0
    assert capfd.readouterr().out == f"{folder / 'index.html'}\n"
    page = (folder / "index.html").read_text(encoding="utf-8")
    rows = Tables(page).tables["Runs"][1:]
    assert [row[0] for row in rows] == ["FAIL", "PASS", "PASS", "PASS", "PASS", "PASS"]
    assert rows[0][1].startswith("wrong")
    assert rows[0][2].startswith("mine is wrong: ")
    assert [row[1].split("\n")[0] for row in rows[1:4]] == ["sweep-3", "sweep-2", "sweep-1"]
    # links lead to pages that are there, and nowhere else
    assert re.findall(r'href="([^"]*)"', page) == ["wrong/report.html"]
    assert "<script" not in page
    assert "Not readable" in page
    assert "torn" in page


def test_index_shows_what_changed_from_run_to_run(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    runs, broken = read_folder(folder)
    assert [place for place, _ in broken] == ["torn"]
    found = {one.title: one for one in build_series(runs, folder)}
    # the other grid has nothing in common with the newest, and is no part of its series
    sweep = found["Sweep of rawkernel"]
    assert (sweep.runs, sweep.items) == (("sweep-1", "sweep-2", "sweep-3"), 9)
    rows = {row.figure: row for row in sweep.rows}
    assert set(rows) == {"items wrong", "items judged", "kv_bytes"}
    assert rows["items judged"].values == ("9", "9", "9")
    base = sum(line["kv_bytes"] for line in sweep_lines(batches=(8,)))
    assert rows["kv_bytes"].values == tuple(f"{base + 9 * 1000 * day:,}" for day in (1, 2, 3))
    wrong = {row.figure: row.values for row in found["Conformance of mine"].rows}
    assert wrong["items wrong"] == ("0", "1")


def test_index_escapes_what_runs_say(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    folder = tmp_path / "runs"
    write_run(folder / name, "conformance", [failed_check(name, name, reason=name)], exit_code=1)
    (folder / name / "report.html").write_text("<p>")
    write_run(folder / "two", "conformance", [failed_check(name, name, reason=name)], exit_code=1)
    page = tmp_path / "page.html"
    assert run(["report", "--index", str(folder), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "<img" not in text
    assert "&lt;img" in text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--index", "absent"], 4, "is no folder"),
        (["--index", "."], 5, "holds no run"),
        (["--index", ".", "x"], 4, "in place of runs"),
    ],
)
def test_index_refuses_what_it_cannot_show(
    words: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["report", *words]) == code
    assert said in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
