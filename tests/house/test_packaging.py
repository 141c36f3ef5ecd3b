# SPDX-License-Identifier: Apache-2.0
"""Builds pabench, installs it in the three ways, and looks from an empty folder whether it is all there.

The fresh environments hold nothing but pabench; its dependencies are those of the running interpreter,
reached through a ``.pth`` file, so that no network is needed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.house.test_docs import own_kernel
from tests.house.test_without_torch import HIDDEN

ROOT = Path(__file__).resolve().parents[2]
RESOURCES = ("kernels_cuda", "suites", "templates")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("build", "hatchling", "pip")),
        reason="needs pip, build and hatchling: pip install pabench[dev]",
    ),
]


def _run(command: list[str], cwd: Path) -> str:
    hidden = (
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_USER",
        "PIP_CONSTRAINT",
    )
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, f"{command}:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result.stdout


def _sources() -> list[Path]:
    """Files that a clean checkout would have: what git tracks or would track; all of an unpacked sdist."""
    if (ROOT / ".git").exists():
        listed = _run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT)
        return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]
    top = ["pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile"]
    top += ["AGENTS.md", "SECURITY.md"]
    folders = ["pabench", *RESOURCES, "tests", "docs", "results"]
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    paths = [*(ROOT / name for name in (*top, "constraints.txt")), *found]
    return [path.relative_to(ROOT) for path in paths if "__pycache__" not in path.parts]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("source")
    for name in _sources():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def dist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist, and a wheel that was built from that sdist."""
    out = tmp_path_factory.mktemp("dist")
    _run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)], out)
    return out


def _only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def _files_under(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def _environment(folder: Path, target: list[str]) -> Path:
    """A fresh virtual environment with pabench from ``target``; returns its ``bin``."""
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder.parent)
    python = folder / "bin" / "python"
    site = Path(
        _run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
    )
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(ours)) + "\n")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    _run([sys.executable, "-m", "pip", "--python", str(python), "install", *options, *target], folder)
    return folder / "bin"


def _doctor(binaries: Path, empty: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(_run([str(binaries / "pabench"), "doctor", "--json"], empty))
    return facts


@pytest.mark.parametrize("way", ["wheel", "sdist", "editable"])
def test_packaging_installed_pabench_is_whole(way: str, source: Path, dist: Path, tmp_path: Path) -> None:
    target = {
        "wheel": [str(_only(dist, "*.whl"))],
        "sdist": [str(_only(dist, "*.tar.gz"))],
        "editable": ["--editable", str(source)],
    }[way]
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    binaries = _environment(environment, target)
    facts = _doctor(binaries, empty)

    home = Path(facts["pabench"]["path"])
    assert home.is_relative_to(source if way == "editable" else environment)
    for name in RESOURCES:
        found = facts["resources"][name]
        assert Path(found["path"]) == (source / name if way == "editable" else home / "_bundled" / name)
        assert found["files"] == _files_under(source / name) > 0
    assert facts["backends"].keys() >= {"rawkernel", "torch-sdpa"}
    # what is in the folders can be read too, through the module as well as the script
    listed = json.loads(_run([str(binaries / "python"), "-m", "pabench", "list", "lengths", "--json"], empty))
    assert {"azure-conv", "mooncake-synthetic"} <= {row["name"] for row in listed["rows"]}
    assert list(empty.iterdir()) == []


def _written(folder: Path) -> set[Path]:
    """Files of a folder, without what Python compiles beside them."""
    return {path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"}


def test_packaging_wheel_holds_what_it_should_and_no_more(source: Path, dist: Path) -> None:
    with zipfile.ZipFile(_only(dist, "*.whl")) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"pabench"}
    assert {name.split("/")[2] for name in names if name.startswith("pabench/_bundled/")} == set(RESOURCES)
    assert "pabench/py.typed" in names
    assert "pabench/_bundled/suites/lengths/README.md" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".so", ".o"))]
    package = {name for name in names if name.startswith("pabench/") and "_bundled" not in name}
    written = _written(source / "pabench")
    assert package == {path.relative_to(source).as_posix() for path in written}
    assert {"pabench/device/emulator/runtime.cpp", "pabench/device/emulator/lane.h"} <= package


def test_packaging_sdist_can_be_tested(source: Path, dist: Path) -> None:
    with tarfile.open(_only(dist, "*.tar.gz")) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    for folder in ("pabench", "tests", *RESOURCES):
        expected = {path.relative_to(source).as_posix() for path in _written(source / folder)}
        assert expected <= names
    files = {"Makefile", "constraints.txt", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md"}
    assert {*files, "CONTRIBUTING.md", "docs/README.md", "results/README.md"} <= names
    assert not [name for name in names if "_bundled" in name or "__pycache__" in name]


def test_packaging_wheel_passes_the_newcomers_script(dist: Path, tmp_path: Path) -> None:
    """The README's kernel right and wrong, by the installed wheel, where neither torch nor a compiler is."""
    binaries = _environment(tmp_path / "environment", [str(_only(dist, "*.whl"))])
    desk = tmp_path / "desk"
    desk.mkdir()
    (desk / "sitecustomize.py").write_text(HIDDEN, encoding="utf-8")
    (desk / "right.py").write_text(own_kernel(), encoding="utf-8")
    wrong = own_kernel().replace("enumerate(kv_lens):", "enumerate(kv_lens - (kv_lens > 1)):")
    (desk / "wrong.py").write_text(wrong, encoding="utf-8")
    (desk / "script.py").write_text(
        "import sys\nimport pabench\nfrom right import decode\n"
        "found = pabench.check(decode, only='decode[normal]')\nprint(found)\nsys.exit(not found)\n"
    )
    environment = {
        "PATH": str(binaries),
        "PYTHONPATH": str(desk),
        "HOME": str(tmp_path),
        "CXX": "/none",
        "TMPDIR": str(tmp_path),
    }

    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(binaries / words[0]), *words[1:]],
            cwd=desk,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    asked = ("--profile", "quick", "-k", "decode[normal], decode[needle]")
    right = ran("pabench", "conformance", "--backend", "right.py:decode", *asked)
    assert right.returncode == 0, right.stderr
    wrong_run = ran("pabench", "conformance", "--backend", "wrong.py:decode", *asked)
    assert wrong_run.returncode == 1, wrong_run.stderr
    failed = [line for line in wrong_run.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1
    assert failed[0].startswith("FAILED its last key missing")
    script = ran("python", "script.py")
    assert script.returncode == 0, script.stderr
    assert script.stdout.startswith("PASS decode: 1 checks")
