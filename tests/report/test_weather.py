# SPDX-License-Identifier: Apache-2.0
"""The weather page: other projects by the state of each clause, and what has changed since an earlier one."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pabench.checks.suite import question_by_id
from pabench.cli.main import run
from pabench.subjects.registry import known
from tests.support.report_data import check, write_run


def peers(folder: Path, version: str, **statuses: str) -> str:
    """A run that judges one package of another project, and a kernel of ours."""
    lines = [check("rawkernel", "decode[normal]")]
    for name in ("decode[normal]", "decode[window]", "empty", "decode[sinks]"):
        status = statuses.get(name, "passed")
        reason = None if status == "passed" else "it is <wrong>"
        lines.append(check("vllm-triton", name, version=version, status=status, reason=reason))
    return str(write_run(folder, "conformance", lines))


def test_page_shows_packages_by_clause_and_what_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = peers(tmp_path / "old", "0.32.0")
    new = peers(tmp_path / "new", "0.33.0", **{"decode[window]": "failed", "decode[sinks]": "unsupported"})
    page, data = tmp_path / "weather.html", tmp_path / "weather.json"
    assert run(["weather", old, "--out", str(page), "--json", str(data)]) == 0
    first = page.read_text()
    assert "rawkernel" not in first
    assert "BROKEN</td>" not in first
    assert "<script" not in first
    capsys.readouterr()
    assert run(["weather", new, "--out", str(page), "--since", str(data)]) == 0
    said = capsys.readouterr().out
    assert "vllm-triton 0.32.0 to 0.33.0: F2 kept became broken" in said
    assert "F4 kept became" in said
    assert "BROKEN</td>" in page.read_text()
    assert "F2 kept became broken" in page.read_text()
    assert run(["weather", old, "--out", str(page), "--since", str(data)]) == 0
    assert "Nothing has changed." in page.read_text()


def test_a_known_deviation_is_of_its_own_clause(tmp_path: Path) -> None:
    found = {"name": "double-free", "kind": "defect", "reason": "r", "case": "c", "text": "t", "cases": 1}
    line = check("vllm-block-pool", "allocator-invariants", version="0.33.0", subject_kind="allocator")
    line |= {"status": "deviates", "deviations": [found]}
    folder, data = write_run(tmp_path / "run", "conformance", [line]), tmp_path / "weather.json"
    words = ["weather", str(folder), "--out", str(tmp_path / "page.html"), "--json", str(data)]
    assert run(words) == 0
    [row] = json.loads(data.read_text())["rows"]
    assert row["states"]["P6"] == "deviating"
    assert row["states"]["P1"] == "kept"


def test_what_is_no_page_or_judges_no_package_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = str(write_run(tmp_path / "ours", "conformance", [check("rawkernel", "decode[normal]")]))
    assert run(["weather", ours, "--out", str(tmp_path / "page.html")]) == 4
    assert "no run judges a package of another project" in capsys.readouterr().err
    for text in ("{}", "[]", json.dumps({"schema": 1, "rows": [{"subject": "x"}]})):
        (tmp_path / "bad.json").write_text(text)
        words = ["weather", ours, "--out", str(tmp_path / "page.html"), "--since", str(tmp_path / "bad.json")]
        assert run(words) == 4
    assert not (tmp_path / "page.html").exists()


def test_two_versions_on_a_page_are_each_compared_with_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pinned = peers(tmp_path / "pinned", "0.9.0")
    newer = peers(tmp_path / "newer", "0.10.0", **{"decode[window]": "failed"})
    page, data = tmp_path / "weather.html", tmp_path / "weather.json"
    assert run(["weather", newer, pinned, "--out", str(page), "--json", str(data)]) == 0
    assert [row["version"] for row in json.loads(data.read_text())["rows"]] == ["0.9.0", "0.10.0"]
    assert run(["weather", newer, pinned, "--out", str(page), "--since", str(data)]) == 0
    assert "Nothing has changed." in page.read_text()
    capsys.readouterr()
    newest = peers(tmp_path / "newest", "0.11.0")
    assert run(["weather", pinned, newest, "--out", str(page), "--since", str(data)]) == 0
    said = capsys.readouterr().out
    assert "vllm-triton 0.10.0 to 0.11.0: F2 broken became kept" in said
    assert "0.9.0" not in said
    assert run(["weather", newest, "--out", str(page), "--since", str(data)]) == 0
    assert "vllm-triton 0.9.0: no longer on this page" in capsys.readouterr().out


@pytest.fixture
def made() -> ModuleType:
    """The program behind ``make weather``."""
    place = Path(__file__).parents[2] / "suites" / "weather" / "weather.py"
    spec = importlib.util.spec_from_file_location("weather", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["weather"] = module
    spec.loader.exec_module(module)
    return module


def test_newer_releases_are_judged_beside_the_pinned_ones(
    made: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which packages are installed where, and which runs are made of them; pip and pabench are stubs."""
    asked: list[list[str]] = []

    def ran(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append([options.get("env", {}).get("PABENCH_PEERS", ""), *map(str, words)])
        known = {"transformers": "5.24.0", "vllm": "0.33.0", "triton": "3.9.0"}
        said = f"{words[-1]} ({known[words[-1]]})\nmore" if words[-1] in known else ""
        return subprocess.CompletedProcess(words, 0, said, "")

    monkeypatch.setattr(made.subprocess, "run", ran)
    folder = tmp_path / "peers"
    (folder / "triton-3.9.0.dist-info").mkdir(parents=True)
    pins = "vllm==0.33.0 sglang==0.5.23 transformers==5.17.0 triton==3.9.0 jax==0.10.2"
    words = ["weather.py", "--pinned", pins, "--out", str(tmp_path / "out"), "--peers", str(folder)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        made.main()
    assert ended.value.code == 0
    installed = [(one[-2], one[-1]) for one in asked if "install" in one]
    newer = f"{folder}-newest"
    assert installed == [
        *((str(folder), one) for one in ("vllm==0.33.0", "sglang==0.5.23", "transformers==5.17.0")),
        *((newer, one) for one in ("transformers==5.24.0", "triton==3.9.0")),
    ]
    runs = [one for one in asked if "conformance" in one]
    assert [one[0] for one in runs] == [str(folder), str(folder), newer]
    assert "ptx:sm_80" in runs[1]
    assert "vllm-triton" in runs[1]
    assert [one for one in runs[2] if one.startswith("transformers")] == [
        "transformers-block-manager",
        "transformers-paged-cache",
        "transformers-paged",
    ]
    assert [Path(one).name for one in asked[-1] if one.startswith(str(tmp_path / "out"))][:3] == [
        "pinned",
        "compiled",
        "newest",
    ]


def test_what_weather_judges_is_there(made: ModuleType) -> None:
    tables = (made.SUBJECTS, made.COMPILED, {"torch": made.WITH_TORCH})
    named = [option.split() for table in tables for options in table.values() for option in options]
    for option, name in named:
        assert name in known(option.removeprefix("--"))
    for question in made.QUESTIONS.split(", "):
        question_by_id(question)


def test_packages_that_cannot_be_judged_are_named_without_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "transformers 9.0 in '/home/someone' cannot be imported: ModuleNotFoundError: No module named 'x'"
    lines = [
        check("transformers-paged", name, status="unsupported", reason=f"{why}; pip install transformers==5")
        for name in ("decode[normal]", "empty")
    ]
    lines.append(
        check(
            "jax-pallas", "empty", status="unsupported", reason="jax is not installed: pip install jax==0.1"
        )
    )
    lines.append(check("rawkernel", "empty", status="unsupported", reason="no such thing"))
    lacking = str(write_run(tmp_path / "lacking", "conformance", lines))
    short = Path(peers(tmp_path / "run", "0.1"))
    record = json.loads((short / "run.json").read_text())
    (short / "run.json").write_text(json.dumps({**record, "not_run": 9}))
    page = tmp_path / "page.html"
    assert run(["weather", str(short), lacking, "--out", str(page)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not judged")]
    assert said == [
        "not judged: 9 checks of vllm-triton: the budget was spent",
        "not judged: jax-pallas: jax is not installed",
        "not judged: transformers-paged: transformers 9.0 cannot be imported: "
        "ModuleNotFoundError: No module named 'x'",
    ]
    assert "<h2>Not judged</h2>" in page.read_text()
    assert "someone" not in page.read_text()
