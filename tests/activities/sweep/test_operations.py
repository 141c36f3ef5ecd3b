# SPDX-License-Identifier: Apache-2.0
"""Operations beside attention as records of a sweep: counted, in journal, table and page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import pabench
from pabench.activities.sweep.expect import operation_against_ceilings
from pabench.activities.sweep.operation import UNITS
from pabench.cli.main import run
from pabench.run.read import read_run
from tests.support.standin_support import TINY

OPERATIONS = """
[operations]
append = { size = 300, fraction = 0.75 }
merge = { size = 40, fraction = 0.7 }
gather = { size = 70, fraction = 0.75 }
copy-pages = { size = 5, fraction = 0.8 }
"""
COUNTS = ("counted_load_sectors", "counted_store_sectors", "distinct_sectors", "wavefronts", "bank_conflicts")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("operations")
    (folder / "grid.toml").write_text(OPERATIONS + TINY, encoding="utf-8")
    words = ["--grid", str(folder / "grid.toml"), "--backend", "rawkernel", "--device", "emulated"]
    assert run(["sweep", *words, "--checked", "--in-process", "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_operations_are_counted_on_a_checked_device_and_never_timed(swept: Path) -> None:
    told = {line["operation"]: line for line in read_run(swept).lines if line["kind"] == "operation"}
    assert {name: line["status"] for name, line in told.items()} == dict.fromkeys(UNITS, "passed")
    for line in told.values():
        assert "run_ns" not in line
        assert {line["provenance"][name] for name in COUNTS} == {"counted"}
        assert line["provenance"]["predicted_ns"] == "modelled"
        assert line["distinct_sectors"] > 0
    assert (told["append"]["counted_size"], told["merge"]["counted_size"]) == (64, 40)


def test_operations_are_seen_by_read_export_and_report(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pabench.read(swept)
    told = frame[frame["kind"] == "operation"].set_index("operation")
    assert set(told.index) == set(UNITS)
    assert run(["export", str(swept), "--to", "csv", "--out", str(tmp_path / "r.csv")]) == 0
    assert run(["export", str(swept), "--to", "bmf", "--out", str(tmp_path / "r.json")]) == 0
    sectors = int(told["counted_load_sectors"].to_dict()["append"])
    measures = json.loads((tmp_path / "r.json").read_text())["append of 300 tokens"]
    assert measures["counted_load_sectors"] == {"value": sectors}
    assert "append of 300 tokens" in (tmp_path / "r.csv").read_text()
    page = (swept / "report.html").read_text()
    assert "Operations beside attention" in page
    assert f"<td>{sectors:,}</td>" in page
    assert "4 operations passed" in page.replace("</b>", "").replace("<b>", "")


def test_compare_names_an_append_that_reads_more(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", str(swept), str(swept)]) == 0
    shutil.copytree(swept, tmp_path / "new")
    lines = [json.loads(text) for text in (swept / "journal.jsonl").read_text().splitlines()]
    for line in lines:
        if line["details"].get("operation") == "append":
            line["figures"]["counted_load_sectors"]["value"] += 1
    (tmp_path / "new/journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    assert run(["compare", str(swept), str(tmp_path / "new")]) == 1
    head = capsys.readouterr().out.splitlines()[0]
    assert head.startswith("WORSE: counted_load_sectors MORE")
    assert "append of 300 tokens" in head


def test_operations_are_asked_where_they_can_be_told_alone(tmp_path: Path, capsys: Any) -> None:
    """The host's clock beside an emulated device says nothing of them."""
    (tmp_path / "grid.toml").write_text(OPERATIONS + TINY, encoding="utf-8")
    words = [
        "sweep",
        "--grid",
        str(tmp_path / "grid.toml"),
        "--device",
        "emulated",
        "--dry-run",
        "--in-process",
    ]
    assert run(words) == 0
    assert "append" not in capsys.readouterr().out
    assert run([*words, "--checked"]) == 0
    said = capsys.readouterr().out
    assert "append of 300 tokens  append: floor " in said


@pytest.mark.parametrize(("read_gbps", "copy_gbps"), [(4000.0, 3000.0), (3000.0, 4000.0)])
def test_operation_faster_than_memory_has_no_speed(read_gbps: float, copy_gbps: float) -> None:
    ceilings = {"read_gbps": read_gbps, "copy_gbps": copy_gbps}
    line = {"run_ns": [1.0], "achieved_gbps": 4100.0, "provenance": {"run_ns": "measured"}}
    found = operation_against_ceilings(line, ceilings)
    assert found["copy_fraction"] == 4100.0 / copy_gbps
    assert found["provenance"]["copy_fraction"] == "measured"
    found = operation_against_ceilings({**line, "achieved_gbps": 4130.0}, ceilings)
    assert (found["status"], found["run_ns"], found["achieved_gbps"]) == ("inconclusive", None, None)
    assert found["reason"].startswith("no speed: 103.2% of the measured ceiling, must be at most 103%")
    assert found["timing"] == {"refused_run_ns": [1.0]}
    assert operation_against_ceilings({"provenance": {}}, ceilings) == {}
