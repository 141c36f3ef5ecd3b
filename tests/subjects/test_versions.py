# SPDX-License-Identifier: Apache-2.0
"""A figure of another project's code says which release it is of, in every activity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pabench.cli.main import run
from pabench.errors import UsageError
from pabench.run.read import read_run
from pabench.subjects.reference import ALLOCATOR, BACKEND
from pabench.subjects.versions import subject_facts

SMALL = ["--page-sizes", "16", "--lengths", "fixed:len=9", "--batch", "1", "--heads", "2:1"]


def test_versions_are_those_of_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    ours, flex, twice = subject_facts(BACKEND, ("rawkernel", "torch-flex", "mine.py:decode", "rawkernel"))
    assert ours == {"name": "rawkernel", "kind": BACKEND, "package": None, "version": None, "mode": None}
    assert (flex["package"], flex["version"]) == ("torch", torch.__version__)
    assert twice["version"] is None
    monkeypatch.setenv("PABENCH_PEERS", str(tmp_path))
    (absent,) = subject_facts(ALLOCATOR, ["vllm-block-pool"])
    assert absent["version"] is None


@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "--backend", "torch-flex", *SMALL],
        ["serving", "--allocator", "torch-paged", "--requests", "5"],
        ["stress", "--allocator", "torch-paged", "--scenario", "fill", "--pages", "16", "--rounds", "1"],
    ],
    ids=lambda words: words[0],
)
def test_version_stands_in_each_record(words: list[str], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    out = tmp_path / "run"
    run([*words, "--out", str(out), "--in-process"])
    found = read_run(out)
    assert {record.subject.version for record in found.records} == {torch.__version__}
    assert found.record["provenance"]["subjects"][0]["package"] == "torch"
    said = json.loads((out / "run.json").read_text())
    for wrong in ("torch", [{"kind": "backend"}], [5]):
        said["provenance"]["subjects"] = wrong
        (out / "run.json").write_text(json.dumps(said))
        with pytest.raises(UsageError, match=r"provenance.subjects = .*: must be a list of subjects"):
            read_run(out)
