# SPDX-License-Identifier: Apache-2.0
"""A subject that does not compile is one verdict, found before the first case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pabench.activities.conformance.load import SHAPE, TRIES, why_broken
from pabench.checks.subject_facts import Judged
from pabench.cli.main import run
from pabench.errors import CompileError
from pabench.problem import Tensors
from pabench.run.read import read_run
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.backends.base import Capabilities

ROOT = Path(__file__).resolve().parents[3]
DEVICE: Any = None


@pytest.mark.parametrize("words", [[], ["--in-process"]], ids=["apart", "in process"])
def test_load_of_what_does_not_compile_is_one_verdict(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "examples" / "one_warp.cu").read_text()
    (tmp_path / "bad.cu").write_text(f"{text}\nint broken = nowhere;\n")
    monkeypatch.chdir(tmp_path)
    asked = ["conformance", "--backend", "bad.cu", "--device", "emulated", "--profile", "quick"]
    assert run([*asked, "--out", "out", *words]) == 1
    (line,) = read_run(tmp_path / "out").lines
    assert (line["id"], line["status"], line["check"]) == ("bad.cu/load", "failed", "load")
    where = f"bad.cu:{text.count(chr(10)) + 2}:"
    assert line["reason"].startswith("bad.cu does not compile: ")
    assert where in line["reason"]
    assert "'nowhere' was not declared" in line["reason"]


class Compiles:
    """Refuses some of the instances that are asked of it."""

    capabilities = Capabilities(dtypes=frozenset({"float16", "float32"}))

    def __init__(self, right: int, error: Exception) -> None:
        self.asked = 0
        self._right, self._error = right, error

    def attend_at_once(self, tensors: Tensors) -> Any:
        self.asked += 1
        if self.asked == self._right:
            return None
        raise self._error


@pytest.mark.parametrize(
    ("right", "error", "broken", "asked"),
    [
        (0, CompileError("a.cu:1: error: first"), "a.cu:1: error: first", TRIES),
        (2, CompileError("a.cu:1: error: first"), None, 2),
        (0, ValueError("no"), None, 1),
    ],
    ids=["no instance", "one of them", "another error"],
)
def test_load_asks_several_instances(right: int, error: Exception, broken: str | None, asked: int) -> None:
    backend: Any = Compiles(right, error)
    assert why_broken(Judged(name="x", kind="backend", backend=backend), DEVICE) == broken
    assert backend.asked == asked


@pytest.mark.parametrize(
    ("error", "broken"),
    [(CompileError("pool.cu:3: error: no"), "pool.cu:3: error: no"), (TypeError("x"), None)],
)
def test_load_of_an_allocator(error: Exception, broken: str | None) -> None:
    def make(device: Any, shape: Any) -> Any:
        assert shape == SHAPE
        raise error

    capabilities: Any = None
    entry = AllocatorEntry(capabilities=capabilities, make=make)
    assert why_broken(Judged(name="x", kind="allocator", allocator=entry), DEVICE) == broken
