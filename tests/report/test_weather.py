"""The weather page: other projects by the state of each clause, and what has changed since an earlier one."""

import json
from pathlib import Path

import pytest

from pabench.cli.main import run
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
