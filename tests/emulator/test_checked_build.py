# SPDX-License-Identifier: Apache-2.0
"""Compiling for the checked device: a compiler that cannot instrument is refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pabench.device import compiler
from pabench.device.base import KernelSource
from pabench.device.checked import CheckedDevice
from pabench.errors import CompileError, EnvironmentRefused
from pabench.resources import resource_dir

KERNEL = 'extern "C" __global__ void k(int* out) { out[0] = 1; }\n'
FAKE = """\
#!{python}
import os, sys
args = sys.argv[1:]
if "-fsanitize=thread" in args:
    if os.environ["TREATMENT"] == "refuse":
        sys.exit("error: unrecognized argument '-fsanitize=thread'")
    args.remove("-fsanitize=thread")
# what is built here is hardly run: the quickest build will do
args = [arg for arg in args if arg not in ("-O2", "-O3")]
os.execv({real!r}, [{real!r}, *args])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a compiler that treats -fsanitize=thread as TREATMENT says, and a cache."""
    made = tmp_path_factory.mktemp("fake")
    script = made / "fake-c++"
    script.write_text(FAKE.format(python=sys.executable, real=compiler.find_compiler().command[0]))
    script.chmod(0o755)
    return made


def source(folder: Path, text: str = KERNEL) -> KernelSource:
    (folder / "kernel.cu").write_text(text)
    return KernelSource(path=folder / "kernel.cu", include_dir=resource_dir("kernels_cuda"))


@pytest.mark.parametrize("treatment", ["refuse", "ignore"])
@pytest.mark.slow
def test_checked_build_refuses_a_compiler_that_cannot_instrument(
    treatment: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(folder / "fake-c++"))
    monkeypatch.setenv("PABENCH_CACHE", str(folder / "cache"))
    monkeypatch.setenv("TREATMENT", treatment)
    with pytest.raises(EnvironmentRefused) as caught:
        CheckedDevice().load(source(folder))
    assert str(caught.value) == (
        f"C++ compiler {folder}/fake-c++ cannot instrument code (-fsanitize=thread), which the checked "
        "device needs"
    )
    assert not list((folder / "cache").glob("kernel*"))


def test_checked_build_says_where_a_kernel_does_not_compile(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"kernel\.cu:1:\d+: error"):
        CheckedDevice().load(source(tmp_path, KERNEL.replace("out[0] = 1", "sanitise(out)")))


def test_checked_build_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EnvironmentRefused, match="no such compiler"):
        CheckedDevice().ready()
