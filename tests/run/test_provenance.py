# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pabench.run import provenance


def test_store_provenance_is_plain_json() -> None:
    data = provenance.collect(device_name="emulated", device_description="here")
    assert json.loads(json.dumps(data)) == data
    assert data["device"] == {"name": "emulated", "description": "here"}
    assert "numpy" in data["versions"]


def test_store_provenance_imports_nothing_heavy() -> None:
    program = (
        "import sys; from pabench.run import directory, provenance; provenance.collect(); "
        "print([m for m in ('torch', 'cupy', 'numpy', 'pandas', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_store_provenance_works_without_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    data = provenance.collect()
    assert (data["git_commit"], data["git_dirty"], data["compiler"]) == (None, None, None)


def test_store_provenance_takes_the_named_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "mycxx"
    fake.write_text("#!/bin/sh\necho my compiler 1.0\necho second line\n")
    fake.chmod(0o700)
    monkeypatch.setenv("CXX", str(fake))
    assert provenance.compiler_line() == "my compiler 1.0"


def test_store_provenance_ignores_a_foreign_checkout(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    (tmp_path / "inside").mkdir()
    assert provenance.git_state(tmp_path)[0] is not None
    assert provenance.git_state(tmp_path / "inside") == (None, None)


def test_store_provenance_unborn_commit_is_none(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert provenance.git_state(tmp_path) == (None, None)


def test_store_provenance_leaves_out_what_is_missing() -> None:
    assert set(provenance.package_versions(["numpy", "no-such-package-here"])) == {"numpy"}


def test_store_provenance_cpu_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\n")
    assert provenance.cpu_name(tmp_path / "cpuinfo")
    assert provenance.cpu_name(tmp_path / "absent")
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t:  A   B\n")
    assert provenance.cpu_name(tmp_path / "cpuinfo") == "A B"
