# SPDX-License-Identifier: Apache-2.0
"""``--json`` of every command: a record that says which form it has, also where the answer is no."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest

from pabench import __version__
from pabench.cli.main import cli, run
from tests.support.report_data import check, sweep_lines, write_run

COMMANDS = sorted(cli.list_commands(click.Context(cli)))
PRINTED = {"doctor", "kernels", "list"}
"""Their ``--json`` is a flag: the record is what they print."""


def command_of(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_an_option_of_every_command(name: str) -> None:
    (option,) = (one for one in command_of(name).params if "--json" in one.opts)
    assert isinstance(option, click.Option)
    assert option.is_flag == (name in PRINTED)
    if not option.is_flag:
        assert option.metavar == "FILE"
        assert re.fullmatch(r"Write .* as JSON\.", str(option.help))


def told(file: Path, kind: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(file.read_text())
    assert (record["schema"], record["pabench"], record["kind"]) == (1, __version__, kind)
    return record


def test_json_of_pages_and_exports(tmp_path: Path) -> None:
    sweep, file = write_run(tmp_path / "sweep", "sweep", sweep_lines(batches=(8,))), tmp_path / "a.json"
    assert run(["report", str(sweep), "--out", str(tmp_path / "a.html"), "--json", str(file)]) == 0
    assert told(file, "report")["files"] == [str(tmp_path / "a.html")]
    assert run(["report", "--index", str(tmp_path), "--json", str(file)]) == 0
    assert told(file, "report")["files"] == [str(tmp_path / "index.html")]
    assert run(["export", str(sweep), "--out", str(tmp_path / "a.csv"), "--json", str(file)]) == 0
    exported = told(file, "export")
    assert (exported["format"], exported["bytes"]) == ("csv", (tmp_path / "a.csv").stat().st_size)


def test_json_of_findings_has_their_scripts(tmp_path: Path) -> None:
    file, name = tmp_path / "a.json", "vllm-block-pool-double-free"
    assert run(["finding", "--json", str(file)]) == 0
    every = told(file, "finding")["findings"]
    assert run(["finding", name, "--json", str(file)]) == 0
    (one,) = told(file, "finding")["findings"]
    assert one in every
    assert (one["case"], one["clause"], "assert" in one["script"]) == (name, "P6", True)


def test_json_of_weather_is_read_back(tmp_path: Path) -> None:
    lines = [check("vllm-triton", "empty", version="vllm 0.1")]
    peers, file, page = (
        str(write_run(tmp_path / "run", "conformance", lines)),
        tmp_path / "a.json",
        tmp_path / "p",
    )
    words = ["weather", peers, "--out", str(page)]
    assert run([*words, "--json", str(file)]) == 0
    assert [row["subject"] for row in told(file, "weather")["rows"]] == ["vllm-triton"]
    assert run([*words, "--since", str(file)]) == 0


@pytest.mark.parametrize(
    "words",
    [["report", "x"], ["export", "x"], ["finding"], ["verify", "x"], ["weather", "x", "--out", "y"], ["gpu"]],
    ids=lambda words: words[0],
)
def test_json_that_cannot_be_written_is_refused_first(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*words, "--json", "no/such/a.json"]) == 4
    assert capsys.readouterr().err.startswith("pabench: --json")
