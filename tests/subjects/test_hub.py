# SPDX-License-Identifier: Apache-2.0
"""Kernels of the Hugging Face hub, in a folder or in its cache, and never over a network."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import pytest

from pabench.cli.main import run
from pabench.device.emulated import EmulatedDevice
from pabench.errors import UsageError
from pabench.subjects.registry import is_place, load_backend, resolve
from tests.house.test_docs import own_kernel

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with revision v1 of ``someone/paged``, a universal build in two files."""
    for name in ("KERNELS_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    repository = tmp_path / "home" / "hub" / "models--someone--paged"
    build = repository / "snapshots" / SHA / "build" / "torch-universal" / "paged"
    build.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(SHA)
    (build / "__init__.py").write_text("from .kernel import decode\nother = decode\n")
    (build / "kernel.py").write_text(own_kernel())
    return repository


@pytest.mark.parametrize("revision", ["v1", SHA])
def test_hub_finds_a_kernel_in_the_cache(cache: Path, revision: str) -> None:
    name = f"hub:someone/paged@{revision}"
    assert is_place("backend", name)
    place = resolve("backend", name).place
    assert place == f"{cache}/snapshots/{SHA}/build/torch-universal/paged/__init__.py:decode"
    assert resolve("backend", f"{name}:other").place.endswith(":other")
    assert load_backend(name, EmulatedDevice()).name == name


def test_hub_finds_a_kernel_in_the_cache_of_kernels_and_in_a_folder(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "checkout"
    (local / "torch-ext" / "paged").mkdir(parents=True)
    (local / "torch-ext" / "paged" / "__init__.py").write_text("def decode(*given): ...\n")
    assert resolve("backend", f"hub:{local}").place == f"{local}/torch-ext/paged/__init__.py:decode"
    cache.rename(tmp_path / "kernels--someone--paged")
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path))
    assert str(tmp_path / "kernels--someone--paged") in resolve("backend", "hub:someone/paged@v1").place


def test_hub_prefers_the_build_for_this_torch(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cpu")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    exact = cache / "snapshots" / SHA / "build" / "torch213-cxx11-cpu-x86_64-linux"
    exact.mkdir()
    (exact / "__init__.py").write_text("")
    assert resolve("backend", "hub:someone/paged@v1").place == f"{exact}/__init__.py:decode"
    (exact.parent / "torch-universal").rename(exact.parent / "torch213-cxx11-cu130-x86_64-linux")
    exact.rename(exact.parent / "torch212-cxx11-cpu-x86_64-linux")
    with pytest.raises(UsageError, match=r"no build for this machine \(has torch212-cxx11-cpu"):
        resolve("backend", "hub:someone/paged@v1")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hub:someone/paged", "is no folder; must be hub:owner/name@revision or hub:folder"),
        ("hub:someone/paged@v2", "not in .*/home/hub"),
        ("hub:someone/paged@v1:1", "'1' is no name in Python"),
        ("hub:", "is no folder"),
    ],
)
def test_hub_refuses(cache: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        resolve("backend", name)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_hub_kernel_is_judged(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["conformance", "-k", "decode[normal]", "--profile", "quick", "--out", "run"]
    assert run([*words, "--backend", "hub:someone/paged@v1"]) == 0
    kernel = next(cache.glob("snapshots/*/build/*/*/kernel.py"))
    kernel.write_text(kernel.read_text().replace("enumerate(kv_lens)", "enumerate(kv_lens - 1)"))
    assert run([*words, "--backend", "hub:someone/paged@v1", "--overwrite"]) == 1
