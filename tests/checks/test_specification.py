# SPDX-License-Identifier: Apache-2.0
"""The specification's text, the table in the code and the checks of the suite are in step, all ways round."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pabench.checks.registry import ALLOCATOR_CHECKS, CHECKS
from pabench.checks.relation_checks import RELATIONS
from pabench.checks.specification import BADGES, CLAUSES, PROFILES
from pabench.checks.suite import BY_ID, QUESTIONS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "specification.md").read_text(encoding="utf-8")
CHECKED = re.compile(r"\[([a-z][a-z0-9, -]+)\](?!\()")
ALL_CHECKS = {*CHECKS, *ALLOCATOR_CHECKS}


def clauses() -> dict[str, str]:
    """Clause to its text, rationale included."""
    body = TEXT.split("## Profiles")[0]
    parts = re.split(r"(?=^\*\*[A-Z]\d+\*\*)", body, flags=re.M)[1:]
    return {part[2:].split("**")[0]: part for part in parts}


def table(heading: str) -> list[list[str]]:
    """Cells of the rows of the table below a heading."""
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows]


def names(cell: str) -> list[str]:
    """What stands in code quotes."""
    return re.findall(r"`([^`]+)`", cell)


def test_specification_text_names_the_checks_of_the_table() -> None:
    named = {}
    for clause, text in clauses().items():
        found = CHECKED.findall(text)[-1]
        named[clause] = sorted(name.strip() for name in found.split(","))
    assert named == {clause: sorted(checks) for clause, checks in CLAUSES.items()}


def test_specification_has_no_question_without_a_clause() -> None:
    assert [row.id for row in QUESTIONS if not row.clauses] == []
    assert {name for checks in CLAUSES.values() for name in checks} == ALL_CHECKS


def test_specification_numbers_are_used_once() -> None:
    found = re.findall(r"^\*\*([A-Z]\d+)\*\*", TEXT, re.M)
    assert len(found) == len(set(found)) == len(CLAUSES)


@pytest.mark.parametrize("clause", CLAUSES)
def test_specification_clauses_have_a_reason_and_their_bugs(clause: str) -> None:
    text = " ".join(clauses()[clause].split())
    why, seen = text.split("*Why:* ")[1].split(" *Seen:* ")
    assert why.endswith((".", "?"))
    projects = {row[0] for row in table("Where it was seen")}
    cited = re.findall(r"([\w.-]+)#\d+", seen)
    assert cited or seen.startswith("none known")
    assert set(cited) <= projects


def test_specification_lists_no_project_that_is_not_cited() -> None:
    cited = set(re.findall(r"([\w.-]+)#\d+", TEXT.split("## Where it was seen")[0]))
    assert {row[0] for row in table("Where it was seen")} == cited


def test_specification_profiles_are_those_of_the_code() -> None:
    rows = {names(row[0])[0]: row for row in table("Profiles")}
    assert list(rows) == list(PROFILES)
    for name, profile in PROFILES.items():
        offered = names(rows[name][2]) if len(rows[name]) > 2 else []
        assert offered == list(profile.offered)
        if name != "core":  # whose families are told in words
            assert names(rows[name][1]) == list(profile.needs)
    words = names(rows["core"][1])
    assert [word for word in words if word not in ("decode", "long", "high-page-ids")] == [
        need for need in PROFILES["core"].needs if not need.startswith("decode[")
    ]


def test_specification_badges_are_those_of_the_code() -> None:
    rows = table("Badges")
    assert [(names(row[0])[0], row[1], tuple(names(row[2]))) for row in rows] == [
        (name, badge.about, badge.by) for name, badge in BADGES.items()
    ]


def test_specification_profiles_and_badges_rest_on_results_of_the_suite() -> None:
    results = {*BY_ID, *(row.check.id for row in QUESTIONS)}
    wanted = {name for p in PROFILES.values() for name in (*p.needs, *p.offered)}
    wanted |= {name for badge in BADGES.values() for name in badge.by}
    assert wanted <= results
    assert {r.badge for r in RELATIONS.values() if r.badge} <= set(BADGES)


def test_specification_properties_lead_to_checks_or_say_why_not() -> None:
    rows = table("Properties and relations")
    assert len(rows) >= 32
    named: set[str] = set()
    for row in rows:
        if row[1] == "none":
            assert len(row) == 3, row
        named |= set(names(row[1]))
    assert named <= ALL_CHECKS
    assert set(RELATIONS) <= named
