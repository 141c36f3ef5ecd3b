# SPDX-License-Identifier: Apache-2.0
"""What is asked of anything but torch's own code neither needs torch nor imports it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HIDDEN = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec


class Absent:
    # no function: pytest keeps it as an attribute of a class and would make it a method
    def __call__(self, name, path=None, target=None):
        return None if name.partition(".")[0] in ("torch", "cupy", "nvidia") else find(name, path, target)


PathFinder.find_spec = Absent()
"""
EVERY_MODULE = """
import importlib, pkgutil, sys
import pabench

needing = []
for module in pkgutil.walk_packages(pabench.__path__, "pabench."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in ("torch", "triton"):
            raise
        needing.append(module.name)
print("\\n".join(needing))
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in ``folder``, where neither torch nor a CUDA package is found."""
    hook = folder / "hidden"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(HIDDEN, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{hook}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A folder with the README's kernel, and one that never sees the last key."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    wrong = source.replace(
        "for i, n in enumerate(kv_lens):", "for i, n in enumerate(kv_lens - (kv_lens > 1)):"
    )
    assert wrong != source
    (tmp_path / "right.py").write_text(source, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(wrong, encoding="utf-8")
    return tmp_path


def test_without_torch_only_its_own_backends_cannot_be_imported(tmp_path: Path) -> None:
    done = run(tmp_path, "-c", EVERY_MODULE)
    assert done.returncode == 0, done.stderr
    needing = done.stdout.split()
    assert "pabench.subjects.backends.torch_sdpa" in needing
    others = [name for name in needing if not name.startswith("pabench.subjects.backends.")]
    assert others == []


@pytest.mark.slow
@pytest.mark.parametrize(("file", "code"), [("right", 0), ("wrong", 1)])
def test_without_torch_a_numpy_function_is_judged(kernel: Path, file: str, code: int) -> None:
    words = ("conformance", "--backend", f"{file}.py:decode", "--device", "emulated", "--profile", "quick")
    done = run(kernel, "-m", "pabench", *words, "-k", "needle or empty or spotlight")
    assert done.returncode == code, done.stdout + done.stderr
    assert "0 crashed" in done.stdout
    assert ("its last key missing" in done.stdout) is bool(code)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--backend", "right.py:decode", "-k", "needle"), 0, "1 passed"),
        (("--backend", "wrong.py:decode", "-k", "needle"), 1, "its last key missing"),
        (("--allocator", "host", "-k", "allocator-decode"), 5, "our kernel cannot run here: CXX = 'absent'"),
        (("--backend", "rawkernel", "-k", "needle"), 7, "CXX = 'absent': no such compiler"),
        (("--backend", "rawkernel", "-k", "needle", "--in-process"), 7, "CXX = 'absent': no such compiler"),
    ],
)
def test_without_compiler_only_kernels_are_refused(
    kernel: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.setenv("CXX", "absent")
    done = run(kernel, "-m", "pabench", "conformance", *words, "--device", "emulated", "--profile", "quick")
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("conformance", "-k", "allocator-invariants[long-rows]", "--profile", "quick", "--in-process"),
        ("stress", "--max-requests", "16", "--scenario", "churn", "--pages", "64", "--rounds", "2"),
        ("serving", "--lengths", "fixed:len=9", "--outputs", "fixed:len=3", "--requests", "3"),
    ],
    ids=lambda words: words[0],
)
def test_without_compiler_allocators_of_the_host_are_driven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CXX", "absent")
    done = run(tmp_path, "-m", "pabench", *words, "--allocator", "host", "--device", "emulated")
    assert done.returncode == 0, done.stdout + done.stderr
    if words[0] != "conformance":
        # one that launches kernels is refused before anything is written
        done = run(
            tmp_path, "-m", "pabench", *words, "--allocator", "scan", "--device", "emulated", "--out", "no"
        )
        assert (done.returncode, (tmp_path / "no").exists()) == (7, False), done.stdout + done.stderr
        assert "CXX = 'absent': no such compiler" in done.stderr


@pytest.mark.parametrize(
    ("subject", "code"),
    [("--backend=torch-sdpa", 7), ("--backend=torch-flex", 5), ("--allocator=torch-paged", 5)],
)
def test_without_torch_its_subjects_name_the_extra(tmp_path: Path, subject: str, code: int) -> None:
    words = (
        "conformance",
        subject,
        "--device",
        "emulated",
        "--profile",
        "quick",
        "-k",
        "needle or allocator-invariants",
    )
    done = run(tmp_path, "-m", "pabench", *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert "pip install 'pabench[torch]'" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("memory", "--model", "llama-3-8b", "--lengths", "list:100,250", "--page-sizes", "8,16"),
        (
            "stress",
            "--allocator",
            "host",
            "--max-requests",
            "16",
            "--scenario",
            "churn",
            "--device",
            "emulated",
        ),
        (
            "serving",
            "--lengths",
            "fixed:len=9",
            "--outputs",
            "fixed:len=3",
            "--requests",
            "3",
            "--executor",
            "kernel",
            "--device",
            "emulated",
        ),
        ("sweep", "--page-sizes", "8", "--lengths", "list:3,9", "--batch", "2", "--device", "emulated"),
    ],
)
def test_without_torch_nothing_else_asks_for_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(tmp_path, "-m", "pabench", *words)
    assert done.returncode == 0, done.stdout + done.stderr
