# SPDX-License-Identifier: Apache-2.0
"""Backends of other projects in a run: what is absent is told and passed by, what is known is named."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pabench.checks import ledger
from pabench.checks.case_files import SavedCase
from pabench.checks.record import CheckRecord
from pabench.cli.main import run
from pabench.errors import EXIT_FAILURE, EXIT_NOTHING_RAN, EXIT_OK
from pabench.problem import Batch, Case, Problem
from pabench.run.read import read_run
from pabench.subjects.backends.adapters.table import ADAPTERS
from pabench.subjects.registry import load_backend
from tests.support.kill_support import ask
from tests.support.peer_backends import Broken, adapter, install
from tests.support.probe import DEVICE
from tests.support.saved_cases import save_case

BASE = ["conformance", "--profile", "quick", "--device", "emulated", "--in-process"]
BASE += ["-k", "decode[normal], wide-heads"]
RAGGED = Case(
    problem=Problem(num_qo_heads=1, num_kv_heads=1, head_dim=16, page_size=1, dtype="float32"),
    batch=Batch(kv_lens=(1,), q_lens=(2,)),
)
ENTRY: dict[str, Any] = {
    "name": "no-keys",
    "adapter": "madeup",
    "kind": "defect",
    "first": "1.0",
    "last": "1.3",
    "clause": "Q3",
    "checks": ["empty", "prefill"],
    "when": ["rows-without-keys"],
    "says": "sees no key",
    "reason": "Rows before the first key are NaN.",
    "promise": "Nothing.",
    "upstream": "",
    "case": "a-case",
}


@pytest.fixture(autouse=True)
def adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = tmp_path / "peers"
    peers.mkdir()
    install(peers, "madeup", "1.2.1")
    monkeypatch.setenv("PABENCH_PEERS", str(peers))
    for name, made in {
        "madeup": adapter("Madeup"),
        "cured": adapter("Cured"),
        "broken": adapter("Broken"),
        "absent": adapter("Absent", package="madedown"),
        "old": adapter("Old", version="1.3"),
        "gpu": adapter("Gpu", gpu=True),
    }.items():
        monkeypatch.setitem(ADAPTERS, name, made)


BROKEN_LINE = inspect.getsourcelines(Broken.__init__)[1] + 1
REASONS = {
    "absent": "madedown is not installed: pip install --no-deps --target {peers} madedown==1.2",
    "old": "madeup 1.2.1 in '{peers}': must be 1.3 or newer; "
    "pip install --no-deps --target {peers} madeup==1.3",
    "broken": "backend 'broken' cannot be loaded: OSError: the vendor's library is missing "
    f"(peer_backends.py:{BROKEN_LINE} in __init__); "
    "pip install --no-deps --target {peers} madeup==1.2",
    "gpu": "gpu needs a GPU: its kernels have no interpreter; add --device cuda",
}


def test_conformance_goes_on_past_packages_that_cannot_be_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = [word for name in (*REASONS, "madeup", "torch-sdpa") for word in ("--backend", name)]
    files = ["--artifacts", str(out), "--json", str(tmp_path / "r.json"), "--junit", str(tmp_path / "r.xml")]
    assert run([*BASE, *words, *files]) == EXIT_OK
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "r.json").read_text())["results"]
    checks = {result["check"] for result in results}
    assert checks == {"decode[normal]", "decode[wide-heads]"}
    for name, reason in REASONS.items():
        said = reason.format(peers=tmp_path / "peers")
        mine = [result for result in results if result["subject"] == name]
        # named as the checks of the others are, so that they stand in one row
        assert {result["check"] for result in mine} == checks
        assert {(result["status"], result["reason"]) for result in mine} == {("unsupported", said)}
        skipped = [
            one.find("skipped")
            for one in ElementTree.parse(tmp_path / "r.xml").iter("testcase")
            if one.get("classname") == f"pabench-conformance.emulated.{name}"
        ]
        assert [None if one is None else one.get("message") for one in skipped] == [said] * 2
        assert f"UNSUPPORTED {name}, 2 checks: {said}" in printed
    # mode and version stand in results, journal, run.json, terminal and page
    for lines in (results, read_run(out).lines):
        found = {line["subject"]: (line["version"], line["mode"]) for line in lines}
        assert found["madeup"] == ("1.2.1", "interpreted")
        assert {found[name] for name in ("torch-sdpa", *REASONS)} == {(None, None)}
    subjects = {one["name"]: one for one in read_run(out).record["provenance"]["subjects"]}
    assert (subjects["madeup"]["package"], subjects["madeup"]["mode"]) == ("madeup", "interpreted")
    assert subjects["absent"]["lacking"].startswith("madedown is not installed")
    page = (out / "report.html").read_text()
    assert "must be 1.3 or newer" in page
    assert "on emulated, 1.2.1, interpreted" in page
    assert "madeup: madeup 1.2.1, interpreted\n" in printed
    (row,) = (line.split() for line in printed.splitlines() if line.startswith("decode[wide-heads] "))
    assert row == ["decode[wide-heads]", *"-----", "pass"]


def test_conformance_of_absent_packages_alone_judges_nothing(tmp_path: Path) -> None:
    words = ["--backend", "absent", "--backend", "gpu", "--artifacts", str(tmp_path / "run")]
    assert run([*BASE, *words]) == EXIT_NOTHING_RAN
    assert {line["status"] for line in read_run(tmp_path / "run").lines} == {"unsupported"}


def examine(
    folder: Path, *, subject: str = "madeup", device: str = "emulated", of: Case = RAGGED, **change: Any
) -> CheckRecord:
    """Judge a subject with one entry in the ledger, whose case ``of`` a device is in ``folder``."""
    case = folder / "a-case"
    case.mkdir()
    saved = SavedCase(check="empty[prefill]", subject="madeup", device=device, case=of)
    save_case(case, saved, "as it was")
    lines = [f"{key} = {json.dumps(value)}" for key, value in (ENTRY | {"adapter": subject} | change).items()]
    (folder / "backends.toml").write_text("\n".join(["[[deviation]]", *lines]))
    known = [
        e
        for e in ledger.read_ledger(folder / "backends.toml", "backend")
        if e.holds_for(subject, "1.2", "eager")
    ]
    return ask("empty[prefill]", load_backend(subject, DEVICE), DEVICE, name=subject, known=tuple(known))


def test_ledger_names_what_is_known_of_a_backend(tmp_path: Path) -> None:
    record = examine(tmp_path)
    assert record.outcome is None
    (seen,) = record.deviations.values()
    assert (seen["name"], seen["kind"], seen["case"]) == ("no-keys", "defect", "a-case")
    assert "sees no key: its output must be 0, got [nan" in seen["text"]
    assert 1 < seen["cases"] < record.cases


STALE = "known deviation 'no-keys' does not happen any more: "


@pytest.mark.parametrize(
    ("subject", "change", "said"),
    [
        ("madeup", {"mode": "eager", "says": "nan"}, None),
        ("madeup", {"last": "1.1"}, "got [nan"),
        ("madeup", {"mode": "native"}, "got [nan"),
        ("madeup", {"when": ["window"]}, f"{STALE}sequence 0, query row 0, sees no key"),
        ("madeup", {"says": "got inf"}, f"{STALE}sequence 0, query row 0, sees no key"),
        ("madeup", {"checks": ["decode"]}, f"{STALE}sequence 0, query row 0, sees no key"),
        ("cured", {}, f"{STALE}right: "),
        ("cured", {"last": "1.1"}, None),
        ("cured", {"mode": "native"}, None),
    ],
)
def test_ledger_turns_loud_when_what_is_known_has_changed(
    tmp_path: Path, subject: str, change: dict[str, Any], said: str | None
) -> None:
    outcome = examine(tmp_path, subject=subject, **change).outcome
    assert (outcome is None) if said is None else (outcome is not None and said in outcome.text)


@pytest.mark.parametrize("device", ["emulated", "ptx:sm_80"])
def test_a_known_case_that_is_not_taken_is_stale_on_its_own_kind_of_device_alone(
    device: str, tmp_path: Path
) -> None:
    half = replace(RAGGED, problem=replace(RAGGED.problem, dtype="float16"))
    outcome = examine(tmp_path, device=device, of=half).outcome
    if device == "emulated":
        assert outcome is not None
        assert f"{STALE}its case is not supported any more" in outcome.text
    else:
        assert outcome is None


def test_replay_of_a_finding_without_its_package_says_how_to_install_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = SavedCase(check="empty[prefill]", subject="madeup", device="emulated", case=RAGGED)
    save_case(tmp_path, saved, "as it was")
    assert run(["replay", "--in-process", str(tmp_path)]) == EXIT_FAILURE
    assert "FAILED madeup empty[prefill]" in capsys.readouterr().out
    assert run(["replay", "--in-process", str(tmp_path), "--backend", "absent"]) == EXIT_NOTHING_RAN
    assert "madedown is not installed: pip install" in capsys.readouterr().err


def test_doctor_shows_the_packages_of_backends_beside_those_of_allocators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--peers", "--json"]) == EXIT_OK
    peers = json.loads(capsys.readouterr().out)["peers"]
    assert peers["madedown"] == {
        "backends": ["absent"],
        "problem": REASONS["absent"].format(peers=tmp_path / "peers"),
        "needs_gpu": False,
    }
    # loaded as a run would, so what fails half-way is told too
    assert peers["madeup"]["problem"].startswith("backend 'broken' cannot be loaded: OSError")
    assert {"madeup", "cured", "gpu"} <= set(peers["madeup"]["backends"])
    assert peers["torch"]["allocators"] == ["torch-paged"]
    assert peers["torch"]["backends"] == ["torch-flex"]
    assert "problem" not in peers["torch"]
    assert {name for name, row in peers.items() if row["needs_gpu"]} == {
        *("flashinfer-python", "flash-attn", "nvidia-cudnn-frontend", "xformers")
    }


def test_list_backends_says_what_adapters_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "backends", "--json"]) == EXIT_OK
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert (rows["rawkernel"]["runs"], rows["rawkernel"]["needs_gpu"]) == ("", False)
    assert (rows["vllm-triton"]["runs"], rows["vllm-triton"]["needs_gpu"]) == ("vllm 0.33.0", False)
    assert (rows["flash-attn"]["runs"], rows["flash-attn"]["needs_gpu"]) == ("flash-attn 2.8.3.post2", True)
