# SPDX-License-Identifier: Apache-2.0
"""Puts the stub for CuPy in place of the real one, in this process or in a new one."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "support" / "standin"
EXPECT = """
[expect]
memory_reach = 0.9
tensor_reach = 0.8
[[expect.fraction]]
backend = "rawkernel"
even = true
from_mb = 0
fraction = 0.5
[model.tiny]
heads = "4:2"
head_dim = 64
"""
TINY = (
    EXPECT
    + """
[[points]]
grid = "small"
models = ["tiny"]
shapes = ["3x40"]
lengths = ["fixed:len={mean}", "uniform:low=1,high={twice}"]
"""
)


# operations so small that what the stub takes to launch them hides how fast the host moves bytes: a speed
# above the ceilings, which are the host's as well, would be refused.  Copies of one page are too large
KINDS = (
    EXPECT
    + """
[operations]
append = { size = 2, fraction = 0.8 }
merge = { size = 40, fraction = 0.8 }
gather = { size = 2, fraction = 0.8 }
[model.prefill]
heads = "4:2"
head_dim = 128
[model.latent]
heads = "16:1"
head_dim = 576
head_dim_v = 512
latent = true
sm_scale = 0.07
[[points]]
grid = "small"
models = ["prefill"]
shapes = ["2x40"]
lengths = ["fixed:len={mean}"]
queries = 24
backends = ["rawkernel-mma"]
[[points]]
grid = "small"
models = ["latent"]
shapes = ["2x40"]
lengths = ["fixed:len={mean}"]
backends = ["rawkernel-mla"]
[[points]]
grid = "small"
models = ["tiny"]
shapes = ["3x80"]
lengths = ["fixed:len={mean}"]
shared = 48
backends = ["rawkernel-cascade"]
"""
)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stub, under CuPy's name."""
    module = importlib.import_module("tests.support.standin.cupy")
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "cupy.cuda", module.cuda)
    yield module
    module.cuda._faults.clear()


def tiny_grid(folder: Path) -> Path:
    """Write a grid of two small points."""
    path = folder / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return path


def tiny_kinds(folder: Path) -> Path:
    """Write a grid of small calls that are no plain decode."""
    path = folder / "tiny-kinds.toml"
    path.write_text(KINDS, encoding="utf-8")
    return path


def in_new_process(*words: str, folder: Path, paths: tuple[Path, ...]) -> subprocess.CompletedProcess[str]:
    """Run a command in ``folder``, with ``paths`` before everything else on Python's path."""
    return subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT)))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
