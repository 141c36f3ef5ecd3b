# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import pabench
from pabench.cli.main import run
from tests.support.report_data import cell, check, write_run


@pytest.fixture
def sweep(tmp_path: Path) -> str:
    timed = [float(one) for one in range(100, 120)]
    return str(
        write_run(tmp_path / "a", "sweep", [cell(8, "azure-conv", 4, run_ns=timed), cell(16, "a|b<i>", 4)])
    )


def export(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(["export", *words]) == 0
    return capsys.readouterr().out


def test_export_to_csv_has_every_figure(sweep: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(export(capsys, sweep))))
    frame = pabench.read(sweep)
    assert [row["id"] for row in rows] == list(frame["id"])
    assert [int(row["num_pages"]) for row in rows] == list(frame["num_pages"])
    assert json.loads(rows[0]["run_ns"]) == frame["run_ns"][0]


def test_export_to_json_has_the_records(sweep: str, capsys: pytest.CaptureFixture[str]) -> None:
    (told,) = json.loads(export(capsys, sweep, "--to", "json"))["runs"]
    assert told["run"]["kind"] == "sweep"
    assert told["records"][0]["figures"]["num_pages"]["unit"] == "pages"


def test_export_to_bmf_has_medians_with_their_interval_and_nothing_modelled(
    sweep: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(export(capsys, sweep, "--to", "bmf"))
    first = next(iter(told.values()))
    assert first["run_ns"] == {"value": 109.5, "lower_value": 105.0, "upper_value": 114.0}
    assert "modelled_ns" not in first
    assert set(first["num_pages"]) == {"value"}


def test_export_to_bmf_of_replicates_has_the_interval_of_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = []
    for replicate, middle in enumerate((90.0, 95.0, 100.0, 105.0, 110.0), start=1):
        own = {"id": f"c-{replicate}", "item": "c", "replicate": replicate}
        lines.append(
            {**cell(8, "azure-conv", 1), **own, "run_ns": [middle + step for step in (-1, 0, 1)] * 20}
        )
    folder = write_run(tmp_path / "a", "sweep", lines)
    (told,) = json.loads(export(capsys, str(folder), "--to", "bmf")).values()
    # pooled, the 300 samples would have put the median between 99 and 101
    assert told["run_ns"]["value"] == 100.0
    assert 88 < told["run_ns"]["lower_value"] < 94
    assert 106 < told["run_ns"]["upper_value"] < 112
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    (told,) = json.loads(export(capsys, str(folder), "--to", "bmf")).values()
    assert told["run_ns"] == {"value": 100.0}


def test_export_to_bmf_leaves_out_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [check("k", "decode", max_ratio=0.5), check("k", "append", status="failed", reason="wrong")]
    folder = write_run(tmp_path / "a", "conformance", lines)
    told = json.loads(export(capsys, str(folder), "--to", "bmf"))
    assert len(told) == 1


def test_export_to_md_keeps_hostile_names_in_their_cell(
    sweep: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = export(capsys, sweep, "--to", "md").splitlines()
    assert len(lines) == 4
    assert "a\\|b&lt;i&gt;" in lines[3]
    bars = [line.replace("\\|", "").count("|") for line in lines]
    assert len(set(bars)) == 1


def test_export_to_junit(sweep: str, capsys: pytest.CaptureFixture[str]) -> None:
    (suite,) = ElementTree.fromstring(export(capsys, sweep, "--to", "junit").split("\n", 1)[1])
    assert suite.get("tests") == "2"


def test_export_to_a_file(sweep: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.csv"
    assert export(capsys, sweep, "--out", str(out)) == f"{out}\n"
    assert out.read_text() == export(capsys, sweep)


def test_export_to_parquet_needs_pyarrow_and_a_file(
    sweep: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["export", sweep, "--to", "parquet"]) == 4
    assert "needs --out FILE" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    out = tmp_path / "x.parquet"
    assert run(["export", sweep, "--to", "parquet", "--out", str(out)]) == 7
    assert "pyarrow" in capsys.readouterr().err
    assert not out.exists()


def test_export_refuses(tmp_path: Path, sweep: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words, text in (
        ([sweep, "--to", "xml"], "unknown format 'xml'"),
        ([], "no run given"),
        ([str(tmp_path)], "not a run directory"),
    ):
        assert run(["export", *words]) == 4
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1
