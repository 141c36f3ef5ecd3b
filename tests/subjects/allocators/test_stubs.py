# SPDX-License-Identifier: Apache-2.0
"""Importing a part of a package alone: what is replaced, what is never, and what is left behind."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pabench.errors import Unsupported
from pabench.subjects.peers.package import PEERS_VARIABLE, ThirdPartyPackage, release
from pabench.subjects.peers.stubs import functions_of, stubs

BARE = ("madeup", "madeup.core")
REPLACED = {"madeup.heavy": {"answer": 7}, "not_installed": {"thing": 1}}
PEER = ThirdPartyPackage(
    package="madeup", version="2.1.0", modules=("madeup.core.pool",), bare=BARE, replaced=lambda _: REPLACED
)


def package(folder: Path, *, version: str = "2.1.0", pool: str = "from madeup.heavy import answer\n") -> Path:
    """A package whose ``__init__`` cannot run, with one module worth having."""
    files = {
        "madeup/__init__.py": "raise RuntimeError('needs a GPU')\n",
        "madeup/core/__init__.py": "import nowhere_to_be_found\n",
        "madeup/core/pool.py": pool,
        "madeup/heavy.py": "import nowhere_to_be_found\n",
        f"madeup-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: madeup\nVersion: {version}\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    modules, finders, path = dict(sys.modules), list(sys.meta_path), list(sys.path)
    yield
    assert {name for name in sys.modules if name.split(".")[0] in ("madeup", "not_installed")} == set()
    assert all(sys.modules.get(name) is module for name, module in modules.items())
    assert (sys.meta_path, sys.path) == (finders, path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(PEERS_VARIABLE, str(tmp_path))
    return tmp_path


def test_stubs_let_the_rest_run_unmodified(folder: Path) -> None:
    package(
        folder, pool="from madeup.heavy import answer\nfrom not_installed import thing\ntwice = 2 * answer\n"
    )
    pool = PEER.load()["madeup.core.pool"]
    assert (pool.twice, pool.thing) == (14, 1)
    assert pool.__file__ == str(folder / "madeup" / "core" / "pool.py")
    assert PEER.load()["madeup.core.pool"] is pool


def test_stubs_never_replace_what_is_installed(folder: Path) -> None:
    package(folder, pool="import json\nsame = json\n")
    with stubs("madeup", folder, bare=BARE, replaced={"json": {"dumps": None}}):
        assert importlib.import_module("madeup.core.pool").same is json
    assert json.dumps is not None


def test_stubs_put_back_what_was_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(folder)
    for name in ("madeup", "madeup.core"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    before = sys.modules["madeup"]
    with stubs("madeup", folder, bare=BARE, replaced=REPLACED):
        assert importlib.import_module("madeup.core.pool").answer == 7
        assert sys.modules["madeup"] is not before
    assert sys.modules["madeup"] is before
    monkeypatch.undo()


def test_stubs_warm_up_what_is_imported_late(folder: Path) -> None:
    package(folder, pool="def late():\n    from madeup.heavy import answer\n    return answer\n")
    got: list[int] = []
    peer = ThirdPartyPackage(
        package="madeup",
        version="2.1.0",
        modules=PEER.modules,
        bare=BARE,
        replaced=lambda _: REPLACED,
        warm=lambda modules: got.append(modules["madeup.core.pool"].late()),
    )
    peer.load()
    assert got == [7]


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ("import nowhere_to_be_found\n", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("from madeup.heavy import renamed\n", "ImportError: cannot import name 'renamed'"),
        ("def broken(:\n", "SyntaxError"),
        ("raise OSError('no driver')\n", "OSError: no driver"),
    ],
)
def test_peers_that_fail_half_way_are_unsupported(folder: Path, pool: str, said: str) -> None:
    package(folder, pool=pool)
    with pytest.raises(Unsupported) as caught:
        PEER.load()
    assert f"madeup 2.1.0 in {str(folder)!r} cannot be imported: {said}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["2.0.9", "1.99", "0.33.0rc1"])
def test_peers_that_are_too_old_are_unsupported(folder: Path, version: str) -> None:
    package(folder, version=version)
    with pytest.raises(Unsupported, match=rf"madeup {version} .* must be 2\.1\.0 or newer; pip install"):
        PEER.find()


@pytest.mark.parametrize("version", ["2.1.0", "2.1.0.post1", "2.10", "3.0.0a1"])
def test_peers_that_are_newer_are_taken(folder: Path, version: str) -> None:
    package(folder, version=version)
    assert PEER.find().version == version
    assert release(version) >= (2, 1)


def test_peers_that_are_absent_say_how_to_install_them(folder: Path) -> None:
    command = f"pip install --no-deps --target {folder} madeup==2.1.0"
    with pytest.raises(Unsupported) as caught:
        PEER.load()
    assert str(caught.value) == f"madeup is not installed: {command}"
    # a folder of that name without a version is no package
    (folder / "madeup").mkdir()
    with pytest.raises(Unsupported, match="madeup is not installed"):
        PEER.find()


def test_functions_of_a_file_run_without_the_file(tmp_path: Path) -> None:
    file = tmp_path / "common.py"
    file.write_text("import nowhere_to_be_found\n\ndef half(x):\n    return int(x * SCALE)\n")
    assert functions_of(file, ["half"], {"SCALE": 0.5})["half"](9) == 4
    with pytest.raises(ImportError, match=r"common\.py has no function third"):
        functions_of(file, ["half", "third"], {})
