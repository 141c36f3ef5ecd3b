# SPDX-License-Identifier: Apache-2.0
"""Where a subject runs, in words: a Python function does not run on the emulated device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pabench.cli.main import run
from pabench.subjects.process.facts import ON_HOST, place_of
from pabench.subjects.registry import load_allocator, load_backend
from tests.support.adapter_support import Host
from tests.support.probe import DEVICE

FUNCTION = """import numpy as np

def decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale):
    return np.zeros_like(q), np.full(q.shape[:2], -np.inf, np.float32)
"""


def test_place_is_the_device_only_of_what_launches_kernels(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FUNCTION)
    function: Any = load_backend(f"{file}:decode", DEVICE)
    assert place_of(function, DEVICE) == ON_HOST
    assert place_of(load_backend("rawkernel", DEVICE), DEVICE) == DEVICE.description
    assert place_of(load_allocator("host"), DEVICE) == ON_HOST
    assert place_of(load_allocator("scan"), DEVICE) == DEVICE.description
    # a function gets the arrays of a GPU
    cuda: Any = Host()
    cuda.name, cuda.description = "cuda", "GPU"
    assert place_of(function, cuda) == "GPU"


def test_place_of_torch_is_that_of_its_tensors() -> None:
    pytest.importorskip("torch")
    assert place_of(load_backend("torch-sdpa", DEVICE), DEVICE) == ON_HOST


def test_place_is_announced_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    words = ["conformance", "--backend", "mine.py:decode", "-k", "decode[normal]", "--profile", "trial"]
    assert run([*words, "--out", "run"]) == 1
    assert f"pabench conformance: mine.py:decode on {ON_HOST}" in capsys.readouterr().err
    told = json.loads(Path("run/run.json").read_text())["provenance"]["device"]
    assert told == {"name": "emulated", "description": ON_HOST}
