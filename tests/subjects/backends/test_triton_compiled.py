# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of vLLM, SGLang and ours as compiled code on the PTX device, no GPU.

A process has Triton for compiling or for interpreting, so each test has one of its own, as runs do.  Tests
skip where a package is not installed; ``make test-peers`` installs them all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pabench.checks.failures import load_case
from pabench.checks.ledger import Deviation, shipped_ledger
from pabench.cli.main import run
from pabench.device.base import device_kind
from pabench.errors import EXIT_FAILURE, EXIT_NOTHING_RAN, EXIT_OK, Unsupported
from pabench.subjects.backends.adapters.table import ADAPTERS
from pabench.subjects.backends.adapters.triton_peers import TRITON

NAMES = [name for name, adapter in ADAPTERS.items() if TRITON in adapter.peers]


def need(name: str) -> None:
    for peer in (*ADAPTERS[name].peers, *ADAPTERS[name].compilers):
        try:
            peer.find()
        except Unsupported as lacking:
            pytest.skip(str(lacking))


def judged(folder: Path, name: str, device: str, checks: str) -> tuple[int, list[dict[str, Any]]]:
    """Return exit code and results of a small run."""
    need(name)
    told = folder / "told.json"
    words = ["--backend", name, "--device", device, "-k", checks, "--json", str(told), "--deadline", "600"]
    code = run(["conformance", "--profile", "quick", *words, "--out", str(folder / "run")])
    return code, json.loads(told.read_text())["results"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_compiled_kernels_are_right_but_for_what_the_ledger_names(name: str, tmp_path: Path) -> None:
    code, results = judged(tmp_path, name, "ptx:sm_80", "decode[spotlight]")
    assert code == EXIT_OK, results
    assert {one["mode"] for one in results} == {"ptx"}
    assert any(one["status"] in ("passed", "known-failure") for one in results)


@pytest.mark.slow
def test_e4m3_is_compiled_for_sm_89_and_later_alone(tmp_path: Path) -> None:
    (old, new) = (tmp_path / "old", tmp_path / "new")
    for folder in (old, new):
        folder.mkdir()
    code, (refused,) = judged(old, "triton", "ptx:sm_80", "decode[fp8-kv]")
    assert code == EXIT_NOTHING_RAN
    assert "no e4m3 on sm_80: Triton compiles it for sm_89 and later" in refused["reason"]
    code, (passed,) = judged(new, "triton", "ptx:sm_90", "decode[fp8-kv]")
    assert (code, passed["status"]) == (EXIT_OK, "passed")


ON_PTX = [one for one in shipped_ledger("backend") if device_kind(load_case(one.folder).device) == "ptx"]


@pytest.mark.parametrize("entry", ON_PTX, ids=lambda entry: entry.case)
def test_what_only_compiled_kernels_do_happens(entry: Deviation, tmp_path: Path) -> None:
    need(entry.adapter)
    told = tmp_path / "told.json"
    words = ["replay", str(entry.folder), "--deadline", "600", "--json", str(told)]
    assert run(words) == EXIT_FAILURE
    assert json.loads(told.read_text())["text"] == (entry.folder / "verdict.txt").read_text().strip()
