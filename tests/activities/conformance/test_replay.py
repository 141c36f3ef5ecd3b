# SPDX-License-Identifier: Apache-2.0
"""Case directories: what is written is read back, and what others wrote is refused in one line."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pabench.activities.conformance
from pabench.checks.case_files import AnyCase, SavedCase
from pabench.checks.failures import case_bytes, load_case
from pabench.cli.main import run
from pabench.judge.allocators.history import HistoryCase
from pabench.problem import Batch, Case, Problem
from pabench.problem.append import AppendCase
from pabench.problem.merge import MergeCase
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.backends import own
from pabench.subjects.peers.named import NamedSubject
from tests.support.saved_cases import save_case

# what is refused is refused in a worker too, which would only take longer
REPLAY = ["replay", "--in-process"]
PROBLEM = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=4)
ATTENTION = Case(problem=PROBLEM, batch=Batch(kv_lens=(0, 9)), family="needle", poison="nan", seed=5)
APPEND = AppendCase(problem=PROBLEM, num_pages=3, slots=(4, -1, 0))
SHAPE = PoolShape(num_pages=4, page_size=2, max_seqs=3, max_pages_per_seq=2)
HISTORY = HistoryCase(
    shape=SHAPE,
    operations=(
        ("alloc", {"sequence": 0, "tokens": 3, "final_tokens": 4, "stream": 1, "adapter": "", "salt": "x"}),
        ("append_batch", {"sequences": [0], "tokens": [1]}),
        ("free", {"sequences": [0]}),
        ("free", {"sequences": [-2, 9]}),
        ("append", {"sequence": 7, "tokens": -3}),
        ("drain", {}),
    ),
)
KINDS: dict[str, tuple[str, str, AnyCase]] = {
    "attention": ("decode[needle]", "rawkernel", ATTENTION),
    "append": ("append", "rawkernel", APPEND),
    "merge": (
        "merge[close]",
        "rawkernel",
        MergeCase(num_states=2, num_rows=1, num_heads=2, head_dim=16, empty="some"),
    ),
    "history": ("allocator-invariants", "scan", HISTORY),
    "decoded history": ("allocator-decode", "host", HISTORY),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "case"
    path.mkdir()
    return path


def saved(folder: Path, kind: str = "attention") -> dict[str, Any]:
    check, subject, case = KINDS[kind]
    save_case(folder, SavedCase(check=check, subject=subject, device="emulated", case=case), "was wrong")
    record: dict[str, Any] = json.loads((folder / "case.json").read_text())
    return record


@pytest.mark.parametrize("kind", KINDS)
def test_replay_reads_back_what_was_saved(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(folder, kind)
    check, subject, case = KINDS[kind]
    assert load_case(folder) == SavedCase(check=check, subject=subject, device="emulated", case=case)
    assert case_bytes(case) < 2**20
    assert (folder / "verdict.txt").read_text() == "was wrong\n"
    assert run([*REPLAY, str(folder)]) == 0
    assert capsys.readouterr().out.startswith(f"PASSED {subject} {check} on emulated: ")


def test_replay_needs_no_arrays_and_arrays_need_no_pickle(folder: Path) -> None:
    saved(folder)
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        assert arrays["kv_lens"].tolist() == [0, 9]
        assert arrays["q"].shape == (2, 4, 16)
    # what stands beside case.json is never opened
    (folder / "arrays.npz").write_bytes(b"\x80\x04cposix\nsystem\n")
    assert run([*REPLAY, str(folder)]) == 0


def test_replay_package_never_unpickles() -> None:
    root = Path(pabench.activities.conformance.__file__).parents[1]
    for path in root.rglob("*.py"):
        assert not re.search(r"allow_pickle\s*=\s*True|^\s*(import|from) pickle", path.read_text(), re.M), (
            path
        )


def test_replay_judges_another_subject(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(folder)
    assert run([*REPLAY, str(folder), "--backend", "torch-sdpa"]) == 0
    saved(folder, "history")
    assert run([*REPLAY, str(folder), "--backend", "model"]) == 0
    assert "PASSED model allocator-invariants" in capsys.readouterr().out
    assert run([*REPLAY, str(folder), "--backend", "torch-sdpa"]) == 4
    assert "unknown allocator 'torch-sdpa'" in capsys.readouterr().err


def test_replay_on_a_subject_that_cannot_is_nothing_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("OnlyPrefill", "Good"):
        monkeypatch.setitem(
            own.OWN, name, NamedSubject(about=name, place=f"tests.support.stub_backends:{name}")
        )
    saved(folder)
    assert run([*REPLAY, str(folder), "--backend", "OnlyPrefill"]) == 5
    assert capsys.readouterr().err == "pabench: OnlyPrefill: no decode\n"
    saved(folder, "append")
    assert run([*REPLAY, str(folder), "--backend", "Good"]) == 5
    assert capsys.readouterr().err == "pabench: Good: no append\n"


def test_replay_of_a_history_on_an_allocator_that_offers_less(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(folder, "history")
    record = json.loads((folder / "case.json").read_text())
    record["case"]["operations"][0] = ["fork", {"parent": 0, "child": 1, "stream": 0}]
    (folder / "case.json").write_text(json.dumps(record), encoding="utf-8")
    assert run(["replay", str(folder), "--backend", "buddy"]) == 5
    assert capsys.readouterr().err == "pabench: buddy offers no fork\n"
    assert run(["replay", str(folder), "--backend", "host"]) == 0
    record["case"]["shape"]["swap_pages"] = 1
    (folder / "case.json").write_text(json.dumps(record), encoding="utf-8")
    assert run(["replay", str(folder)]) == 5
    assert "scan: swap_pages = 1: swaps nothing, must be 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("attention", {"schema": 2}, "must be an object of schema 1"),
        (
            "attention",
            {"kind": "pickle"},
            "kind = 'pickle': must be one of attention, append, merge",
        ),
        ("attention", {"kind": ["append"]}, "kind = ['append']: must be one of"),
        ("attention", {"kind": "append"}, "kind = 'append': must be attention for the check decode[needle]"),
        ("history", {"check": "decode"}, "kind = 'history': must be attention for the check decode"),
        ("attention", {"check": "decoed"}, "unknown check 'decoed'; did you mean 'decode'?"),
        ("attention", {"check": "decode[\x1b[31m]"}, "must be a name"),
        ("attention", {"check": None}, "check = None: must be a name"),
        ("attention", {"subject": "../../x"}, "unknown backend '../../x'"),
        ("attention", {"subject": "raw\nkernel"}, "must be a name"),
        ("attention", {"subject": "x" * 999}, "must be a name"),
        ("attention", {"device": "/dev/null"}, "unknown device '/dev/null'"),
        ("attention", {"device": 3}, "device = 3: must be a name"),
        ("attention", {"case": None}, "must be a JSON object"),
        ("attention", {"case": {}}, "schema = None"),
        ("append", {"case": {}}, "must be a JSON object of schema 1"),
        ("history", {"case": [1]}, "must be a JSON object of schema 4, 3 or 2"),
    ],
)
def test_replay_refuses_a_hostile_record(
    kind: str, change: dict[str, Any], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = saved(folder, kind)
    (folder / "case.json").write_text(json.dumps(record | change), encoding="utf-8")
    refused(folder, words, capsys)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("attention", {"kv_lens": [2**31 - 1, 0]}, "a case to replay must fit in"),
        ("attention", {"kv_lens": [2**40]}, "must be at most"),
        ("attention", {"kv_lens": [-1]}, "must be at least 0"),
        ("attention", {"kv_lens": "12"}, "must be a whole number"),
        ("attention", {"kv_lens": []}, "must name at least one sequence"),
        ("attention", {"kv_lens": [1] * 3}, "must have one entry per sequence"),
        ("attention", {"spare_pages": 2**31 - 1}, "a case to replay must fit in"),
        ("attention", {"family": "../secret"}, "unknown input family '../secret'"),
        ("attention", {"seed": 0.5}, "seed = 0.5: must be a whole number"),
        ("attention", {"extra": 1}, "has an unknown field 'extra'"),
        ("attention", {"problem": {"head_dim": 16}}, "has no field"),
        ("append", {"num_pages": 2**31 - 1}, "a case to replay must fit in"),
        ("append", {"slots": [0, 0]}, "must not name a slot twice"),
        ("append", {"slots": 7}, "slots"),
        ("append", {"problem": 3}, "problem"),
        ("append", {"interleaved": "yes"}, "interleaved"),
        ("append", {"kv_layout": ["NHD"]}, "must be one of NHD, HND"),
        ("append", {"other": 1}, "other"),
        (
            "history",
            {"shape": {"num_pages": 2**30}},
            "must have the fields groups, hash_bits, host_pages, max_pages_per_seq",
        ),
        ("history", {"shape": {**asdict(SHAPE), "swap_pages": 2**30}}, "fit in"),
        (
            "history",
            {"shape": {**asdict(SHAPE), "max_seqs": 2**31 - 1}},
            "fit in",
        ),
        (
            "history",
            {"shape": {**asdict(SHAPE), "page_size": 2**30}},
            "fit in",
        ),
        ("history", {"shape": [4]}, "must have the fields"),
        ("history", {"extra": 1}, "must have schema, shape, operations and schedule"),
        ("history", {"operations": [["exec", None]]}, "must be one of alloc, append"),
        ("history", {"operations": [["free", {"sequences": ["0"]}]]}, "must be a whole number"),
        ("history", {"operations": [["free", {"sequences": [1e3]}]]}, "must be a whole number"),
        ("history", {"operations": [["free", 3]]}, "fields of free = 3: must be sequences"),
        ("history", {"operations": [["free", {"sequences": "abc"}]]}, "must be a list of whole numbers"),
        ("history", {"operations": [["free"]]}, "must be a name and its fields"),
        ("history", {"operations": 3}, "must be a list"),
    ],
)
def test_replay_refuses_a_hostile_case(
    kind: str, change: dict[str, Any], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = saved(folder, kind)
    record["case"] |= change
    (folder / "case.json").write_text(json.dumps(record), encoding="utf-8")
    refused(folder, words, capsys)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "must be an object of schema 1"),
        (b"9" * 5000, "is not JSON"),
        (b"\x80\x04cposix\nsystem\n", "is not JSON"),
    ],
)
def test_replay_refuses_what_is_no_json(
    content: bytes, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "case.json").write_bytes(content)
    refused(folder, words, capsys)


def test_replay_refuses_a_missing_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(tmp_path / "absent", "is not a case directory: case.json: No such file", capsys)
    refused(folder, "is not a case directory", capsys)
    (folder / "case.json").mkdir()
    refused(folder, "is not a case directory: case.json: Is a directory", capsys)
    refused(folder / "case.json" / "x\nforged: line", "is not a case directory", capsys)


def test_replay_runs_no_code_that_the_file_names(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\ndef decode(*a): pass\n", encoding="utf-8")
    record = saved(folder) | {"subject": f"{trap}:decode"}
    (folder / "case.json").write_text(json.dumps(record), encoding="utf-8")
    refused(folder, "which replay does not run unasked", capsys)
    assert not (tmp_path / "sprung").exists()
    assert run([*REPLAY, str(folder), "--backend", f"{trap}:decode"]) in (1, 5)
    assert (tmp_path / "sprung").exists()


def test_replay_prints_the_traceback_of_what_the_subject_raised(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(folder)
    mine = tmp_path / "mine.py"
    mine.write_text(
        "def decode(q, k, v, table, lens, scale):\n    raise KeyError('\\x1b[2J')\n", encoding="utf-8"
    )
    assert run([*REPLAY, str(folder), "--backend", f"{mine}:decode"]) == 1
    said, head, *frames = capsys.readouterr().out.splitlines()
    assert said.startswith("FAILED")
    assert head == "Traceback (most recent call last):"
    assert any("mine.py" in frame and "line 2, in decode" in frame for frame in frames)
    mine.write_text(
        "def decode(q, k, v, table, lens, scale):\n    raise ValueError('\\x1b[2J')\n", encoding="utf-8"
    )
    assert run(["replay", str(folder), "--backend", f"{mine}:decode"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "ValueError: \\u001b[2J"


def refused(folder: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    code = run([*REPLAY, str(folder)])
    printed = capsys.readouterr()
    assert code == 4, printed
    assert words in printed.err
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert "\x1b" not in printed.err
