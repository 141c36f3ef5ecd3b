# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

from pabench.checks.faults import faults_of, verdict_lines

PLACE = "sequence 0, query head 1, dim 2: err/T 9, got 1, expected 2 within 3"


def line(check: str, reason: str, *causes: str, subject: str = "k", status: str = "failed") -> dict[str, Any]:
    return {
        "id": f"{subject}/{check}",
        "check": check,
        "subject": subject,
        "status": status,
        "reason": reason,
        "causes": {name: f"{name} (bound 7)" for name in causes},
    }


def test_faults_take_the_cause_that_fits_most() -> None:
    lines = [
        line("a", f"{PLACE}; one of: x, or y", "x", "y"),
        line("b", f"with identity pages: {PLACE}; y", "y", "z"),
        line("c", PLACE, "z", "y"),
        line("d", f"{PLACE}; w", "w"),
        line("e", "passed", status="passed"),
    ]
    found = faults_of(lines)
    assert [(fault.words, fault.checks) for fault in found] == [
        ("y (bound 7)", ("a", "b", "c")),
        ("w (bound 7)", ("d",)),
    ]
    assert found[0].place == PLACE


def test_faults_of_two_subjects_are_two() -> None:
    found = faults_of([line("a", PLACE, "x"), line("a", PLACE, "x", subject="other")])
    assert {fault.subject for fault in found} == {"k", "other"}


def test_faults_that_nothing_explains_are_told_by_their_words() -> None:
    lines = [
        line("a", "lse is missing"),
        line("b", "with 3 pages: lse is missing"),
        line("c", "plan 1 of two: lse is missing"),
        line("r", "misaligned memory (q at an odd address): refused or right, was lse is missing"),
        line("d", "ValueError: bad (k.py:3 in decode)", status="crashed"),
        line("e", "ValueError: bad (k.py:4 in decode)", status="crashed"),
        line("f", f"{PLACE}; the row sees 3 keys; the output is 0 in all dims (3 of 9 outputs wrong)"),
        line("g", f"{PLACE}; the row sees 5 keys; the output is 0 in all dims (4 of 9 outputs wrong)"),
    ]
    found = {fault.words: fault.checks for fault in faults_of(lines)}
    assert found == {
        "lse is missing": ("a", "b", "c", "r"),
        "ValueError: bad (k.py:3 in decode)": ("d", "e"),
        "the output is 0 in all dims": ("f", "g"),
    }


def test_faults_are_shown_in_a_line_of_their_own() -> None:
    (fault,) = faults_of([line("a", "lse is missing"), line("b", "lse is missing")])
    assert repr(fault) == "FoundFault(subject='k', words='lse is missing', place='')"


def test_faults_of_a_right_run_are_none() -> None:
    assert faults_of([line("a", "", status="passed")]) == ()


def test_faults_show_the_check_without_a_variation() -> None:
    lines = [
        line("a", f"with 3 pages: {PLACE}; x", "x"),
        line("b", f"{PLACE}; x", "x"),
        line("c", PLACE, "x"),
    ]
    (fault,) = faults_of(lines)
    assert fault.first["check"] == "b"
    assert (fault.words, fault.place, fault.checks) == ("x (bound 7)", PLACE, ("a", "b", "c"))


def test_faults_verdict_in_lines_has_the_cause_first() -> None:
    explained = "the row sees 2 keys; the output matches x"
    said = f"with 3 pages: {PLACE}; {explained} (3 of 9 outputs and 1 of 1 lse wrong)"
    assert verdict_lines(said) == [
        "the output matches x",
        "sequence 0, query head 1, dim 2, with 3 pages",
        "err/T 9, got 1, expected 2 within 3",
        "the row sees 2 keys",
        "3 of 9 outputs and 1 of 1 lse wrong",
    ]
    assert verdict_lines(PLACE) == ["sequence 0, query head 1, dim 2", "err/T 9, got 1, expected 2 within 3"]
    assert verdict_lines("KeyError: 'nope' (k.py:3 in decode)") == ["KeyError: 'nope' (k.py:3 in decode)"]
    assert verdict_lines(None) == [""]
