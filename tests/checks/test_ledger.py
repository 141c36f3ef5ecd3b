# SPDX-License-Identifier: Apache-2.0
"""The ledger of known deviations is read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pabench.checks.failures import load_case
from pabench.checks.ledger import known_deviations, read_ledger, shipped_ledger
from pabench.checks.outcome import Outcome, failed
from pabench.errors import InvalidCase, UnknownName, UsageError
from pabench.judge.allocators.history import HistoryCase
from tests.support.allocator_support import shape_of

GOOD: dict[str, Any] = {
    "name": "double-free",
    "adapter": "torch-paged",
    "kind": "defect",
    "first": "2.9",
    "last": "2.13.0",
    "clause": "P6",
    "checks": ["allocator-invariants"],
    "says": r"free .* gave success",
    "reason": "accepted",
    "promise": "none",
    "upstream": "",
    "case": "a-case",
}


def ledger(folder: Path, *entries: dict[str, Any], more: str = "") -> Path:
    (folder / "a-case").mkdir(exist_ok=True)
    file = folder / "allocators.toml"
    lines = [more]
    for entry in entries:
        lines += ["[[deviation]]", *(f"{key} = {json.dumps(value)}" for key, value in entry.items())]
    file.write_text("\n".join(lines))
    return file


def test_ledger_entry_explains_its_verdict_alone(tmp_path: Path) -> None:
    (entry,) = read_ledger(ledger(tmp_path, GOOD), "allocator")
    assert entry.folder == tmp_path / "a-case"
    history = HistoryCase(shape=shape_of(2, 4, 2, 2), operations=())
    bad = failed("operation 2 (free): free [0] gave success, must give InvalidCase")
    assert entry.explains("allocator-invariants", history, bad)
    assert not entry.explains("allocator-decode", history, bad)
    assert not entry.explains("allocator-invariants", history, failed("invariant 1: lost"))
    assert not entry.explains("allocator-invariants", history, Outcome(passed=True, text=bad.text))
    assert [entry.holds_for("torch-paged", v) for v in ("2.8.1", "2.9.0", "2.13.0+cpu", "2.14")] == [
        *(False, True),
        *(True, False),
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "feature"}, "deviation 1: kind"),
        ({"first": "2.x"}, "deviation 1: first = '2.x' must be numbers and points"),
        ({"first": "3.0"}, "deviation 1: last = '2.13.0' must not be before 3.0"),
        ({"checks": []}, "deviation 1: checks"),
        ({"checks": ["decode"]}, "deviation 1: checks"),
        ({"checks": "allocator-invariants"}, "deviation 1: checks"),
        ({"says": "("}, "deviation 1: says = '(' must be a regular expression"),
        ({"says": ""}, "deviation 1: says"),
        ({"reason": 3}, "deviation 1: reason = 3 must be a text"),
        ({"case": "../a-case"}, "deviation 1: case"),
        ({"case": "elsewhere"}, "deviation 1: case = 'elsewhere' must be a folder beside the ledger"),
        ({"since": "2.9"}, "deviation 1"),
        ({"clause": "P99"}, "deviation 1: clause"),
        ({"when": ["full-moon"]}, "deviation 1: when"),
        ({"when": []}, "deviation 1: when = [] must be a list of names"),
        ({"mode": ""}, "deviation 1: mode"),
    ],
)
def test_ledger_refuses_a_wrong_entry(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidCase) as caught:
        read_ledger(ledger(tmp_path, GOOD | change), "allocator")
    assert said.split(" = ")[0] in str(caught.value)
    assert said.split(" must ")[-1] in str(caught.value)


def test_ledger_refuses_what_is_missing_or_double_or_unknown(tmp_path: Path) -> None:
    def read(*entries: dict[str, Any], more: str = "") -> None:
        read_ledger(ledger(tmp_path, *entries, more=more), "allocator")

    with pytest.raises(InvalidCase, match="promise = None: is missing"):
        read({key: value for key, value in GOOD.items() if key != "promise"})
    with pytest.raises(InvalidCase, match="says = None: is missing, and so is when"):
        read({key: value for key, value in GOOD.items() if key != "says"})
    with pytest.raises(InvalidCase, match="must be there once for torch-paged"):
        read(GOOD, GOOD)
    with pytest.raises(UnknownName, match="torch-paged"):
        read(GOOD | {"adapter": "torch-pagde"})
    with pytest.raises(UsageError, match="tables and nothing else"):
        read(GOOD, more="schema = 1")
    with pytest.raises(UsageError, match="is not TOML"):
        read(more="=")
    with pytest.raises(UsageError, match="cannot be read"):
        read_ledger(tmp_path / "absent.toml", "allocator")


def test_ledger_that_is_shipped_is_sound() -> None:
    allocators, backends = shipped_ledger("allocator"), shipped_ledger("backend")
    assert len(allocators) >= 9
    assert known_deviations("allocator", "host", None) == ()
    entries = (*allocators, *backends)
    folders = {path.name for path in entries[0].folder.parent.iterdir() if path.is_dir()}
    assert folders == {entry.case for entry in entries}
    for entry in entries:
        saved = load_case(entry.folder)
        assert saved.subject == entry.adapter
        verdict = failed((entry.folder / "verdict.txt").read_text().strip())
        assert entry.explains(saved.check, saved.case, verdict)
        alike = [one for one in entries if one.adapter == entry.adapter and one is not entry]
        # of two modes one alone holds
        rivals = [one for one in alike if not one.mode or not entry.mode or one.mode == entry.mode]
        assert not [one.name for one in rivals if one.explains(saved.check, saved.case, verdict)]
