# SPDX-License-Identifier: Apache-2.0
"""Submission packages: what is packed can be verified, and what was changed shows."""

import json
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pabench.checks.spec_version import read_spec, spec_text, spec_versions
from pabench.checks.specification import CLAUSES, PROFILES
from pabench.checks.suite import BY_ID
from pabench.cli.main import run
from pabench.resources import resource_dir
from tests.support.report_data import check, write_run

SPEC = read_spec("1.0")
STATEMENT = ["--statement", "A kernel of tests"]
WAIVER = """[[waiver]]
check = "decode[far-*]"
reason = "known & <b>wrong</b>"
url = "https://example.org/1"
until = {until}
"""


def journal(**statuses: str) -> list[dict[str, Any]]:
    """A result for each question of the spec that is put to backends."""
    return [
        check(
            "mine",
            name,
            status=statuses.get(name, "passed"),
            reason=None if statuses.get(name, "passed") == "passed" else "off by one",
            cases=0 if statuses.get(name) == "unsupported" else 3,
        )
        for name in SPEC.questions
        if BY_ID[name].subject_kind == "backend"
    ]


def written(folder: Path, config: Any = None, **statuses: str) -> Path:
    path = write_run(folder, "conformance", journal(**statuses))
    record = json.loads((path / "run.json").read_text())
    asked = {"spec": "1.0", "profile": "default", "select": None, **(config or {})}
    (path / "run.json").write_text(json.dumps({**record, "config": {**record["config"], **asked}}))
    return path


def packed(folder: Path, *words: str, **statuses: str) -> Path:
    package = folder / "mine.zip"
    assert (
        run(["submit", str(written(folder / "run", **statuses)), "--out", str(package), *STATEMENT, *words])
        == 0
    )
    return package


def changed(package: Path, name: str, data: bytes | None) -> Path:
    """A copy of a package with another file, or without it."""
    with zipfile.ZipFile(package) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    files.pop(name, None) if data is None else files.update({name: data})
    out = package.with_name("changed.zip")
    with zipfile.ZipFile(out, "w") as archive:
        for entry, content in files.items():
            archive.writestr(entry, content)
    return out


def test_the_newest_spec_is_what_the_suite_asks() -> None:
    newest = spec_versions()[-1]
    text = (resource_dir("suites") / "spec" / f"{newest}.toml").read_text(encoding="utf-8")
    assert text == spec_text(newest), "the suite asks other questions: run `make spec`"
    spec = read_spec(newest)
    assert (spec.questions, spec.clauses, spec.profiles) == (tuple(BY_ID), tuple(CLAUSES), PROFILES)


def test_a_package_says_what_its_run_showed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    statuses = {"decode[window]": "failed", "decode[sinks]": "unsupported"}
    package = packed(tmp_path, **statuses)
    (tmp_path / "again").mkdir()
    assert package.read_bytes() == packed(tmp_path / "again", **statuses).read_bytes()
    capsys.readouterr()
    assert run(["verify", str(package), "--profile", "core"]) == 0
    said = capsys.readouterr().out
    assert "mine: profiles core, gqa, prefill" in said
    assert "window" not in said
    assert run(["verify", str(package), "--profile", "window"]) == 1
    assert "FAILED window: decode[window] failed" in capsys.readouterr().out
    assert run(["verify", str(package), "--profile", "sink"]) == 4
    assert "did you mean 'sinks'" in capsys.readouterr().err


def test_packages_are_told_in_json(tmp_path: Path) -> None:
    file, page = tmp_path / "told.json", tmp_path / "page.html"

    def told(*words: str, code: int = 0) -> dict[str, Any]:
        assert run([*words, "--json", str(file)]) == code
        found: dict[str, Any] = json.loads(file.read_text())
        assert (found["schema"], found["kind"]) == (1, words[0])
        return found

    package = packed(tmp_path, **{"decode[window]": "failed"})
    made = told("submit", str(tmp_path / "run"), "--statement", "Mine", "--out", str(tmp_path / "b.zip"))
    assert made["sha256"] == sha256((tmp_path / "b.zip").read_bytes()).hexdigest()
    found = told("verify", str(package))
    assert (found["passed"], found["tampered"], found["failed"]) == (True, [], [])
    states = {claim["name"]: claim["state"] for claim in found["subjects"]["mine"]["profiles"]}
    assert (states["core"], states["window"]) == ("held", "broken")
    failed = told("verify", str(package), "--profile", "window", code=1)
    assert (failed["passed"], failed["failed"][0]["why"]) == (False, "decode[window] failed")
    (row,) = told("scoreboard", str(package), "--out", str(page))["packages"]
    assert (row["package"], "core" in row["subjects"]["mine"]) == (found["package"], True)
    broken = changed(package, "statement.txt", b"Another")
    assert told("verify", str(broken), code=1)["tampered"][0].startswith("statement.txt: has SHA-256")
    assert str(broken) in told("scoreboard", str(broken), "--out", str(page), code=1)["tampered"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("journal.jsonl", b"{}", "TAMPERED journal.jsonl: has SHA-256"),
        ("run.json", b"{}", "TAMPERED run.json: has SHA-256"),
        ("statement.txt", b"Another", "TAMPERED statement.txt: has SHA-256"),
        ("journal.jsonl", None, "TAMPERED journal.jsonl: is missing"),
        ("waivers.toml", b"", "TAMPERED waivers.toml: is not in manifest.json"),
    ],
)
def test_a_changed_file_is_named(
    name: str, data: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = changed(packed(tmp_path), name, data)
    assert run(["verify", str(package)]) == 1
    assert said in capsys.readouterr().out
    assert run(["scoreboard", str(package), "--out", str(tmp_path / "page.html")]) == 1
    assert not (tmp_path / "page.html").exists()


def test_a_byte_that_is_turned_is_noticed_wherever_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = packed(tmp_path)
    whole, turned = package.read_bytes(), tmp_path / "turned.zip"
    with zipfile.ZipFile(package) as archive:
        entries = [(entry.filename, entry.header_offset, entry.compress_size) for entry in archive.infolist()]
    for name, start, size in entries:
        at = start + 30 + len(name) + size // 2
        turned.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        # without its manifest a file is no package at all
        assert run(["verify", str(turned)]) == (4 if name == "manifest.json" else 1), name
        said = capsys.readouterr()
        assert name in said.out + said.err


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("manifest.json", b"{", "no manifest.json of schema 1"),
        (
            "manifest.json",
            b'{"schema": 1, "spec": "1.0", "files": {"run.json": 3}}',
            "no manifest.json of schema 1",
        ),
        ("../evil.py", b"", "'../evil.py' is none of"),
    ],
)
def test_what_is_no_package_is_refused(
    name: str, data: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", str(changed(packed(tmp_path), name, data))]) == 4
    assert said in capsys.readouterr().err
    (tmp_path / "text.zip").write_text("none")
    assert run(["verify", str(tmp_path / "text.zip")]) == 4
    assert "no zip file" in capsys.readouterr().err


def test_a_waiver_counts_until_its_last_day(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.toml").write_text(WAIVER.format(until="2999-01-01"))
    (tmp_path / "late.toml").write_text(WAIVER.format(until="2001-01-01"))
    broken = {"decode[far-negative]": "failed"}
    good = packed(tmp_path, "--waivers", str(tmp_path / "good.toml"), **broken)
    assert run(["verify", str(good), "--profile", "core"]) == 0
    assert "waived decode[far-negative]" in capsys.readouterr().out
    assert run(["scoreboard", str(good), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert '<a href="https://example.org/1">' in page
    assert "<b>wrong" not in page
    assert "<script" not in page
    assert "A kernel of tests" in page
    (tmp_path / "late").mkdir()
    late = packed(tmp_path / "late", "--waivers", str(tmp_path / "late.toml"), **broken)
    assert run(["verify", str(late)]) == 1
    assert "EXPIRED waiver of decode[far-*], since 2001-01-01" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WAIVER.format(until='"soon"'), "waiver 1: until = 'soon': must be a date"),
        (WAIVER.format(until="2999-01-01").replace("https://", "ftp://"), "must be a link"),
        (WAIVER.format(until="2999-01-01").replace("far-*", "huge"), "no such question failed"),
        (WAIVER.format(until="2999-01-01").replace("reason", "why"), "waiver 1: reason = None: is missing"),
        ("x = 1", "must hold [[waiver]] entries"),
    ],
)
def test_waivers_that_break_a_rule_are_refused(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.toml").write_text(text)
    folder = written(tmp_path / "run", **{"decode[far-negative]": "failed"})
    words = ["submit", str(folder), "--out", str(tmp_path / "p.zip"), *STATEMENT, "--waivers"]
    assert run([*words, str(tmp_path / "w.toml")]) == 4
    assert said in capsys.readouterr().err
    assert not (tmp_path / "p.zip").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"spec": None}, "was made without --spec 1.0"),
        ({"profile": "quick"}, "was made with --profile quick, must be default"),
        ({"select": "decode"}, "was made with -k decode, must ask everything"),
    ],
)
def test_runs_that_show_too_little_are_refused(
    config: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "run", config)
    assert run(["submit", str(folder), "--out", str(tmp_path / "p.zip"), *STATEMENT]) == 4
    assert said in capsys.readouterr().err


def test_spec_is_asked_by_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["conformance", "--spec", "0.9"]) == 4
    assert "unknown version of the specification '0.9'" in capsys.readouterr().err
