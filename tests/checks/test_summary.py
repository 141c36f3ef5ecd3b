# SPDX-License-Identifier: Apache-2.0
"""Clauses, profiles and badges follow from results, and from nothing a subject declares."""

from __future__ import annotations

from typing import Any

import pytest

from pabench.checks.specification import BADGES, CLAUSES, PROFILES
from pabench.checks.suite import questions_for
from pabench.checks.summary import ConformanceSummary, clause_lines, summaries

BACKEND_RESULTS = [row.id for row in questions_for("backend")]
HISTORIES = [row.id for row in questions_for("allocator") if row.id.startswith("allocator-invariants")]
POOLS = {clause for clause in CLAUSES if clause.startswith("P")}


def line(check: str, status: str = "passed", **more: Any) -> dict[str, Any]:
    cases = 0 if status in ("unsupported", "interrupted") else 10
    given = {
        "subject": "mine",
        "subject_kind": "backend",
        "device": "emulated",
        "cases": cases,
        "missing_badges": {},
    }
    return {"check": check, "status": status, **given, **more}


def summary(**changed: dict[str, Any]) -> ConformanceSummary:
    """Of a backend that passes everything but what ``changed`` says, by result."""
    by_name = {name.replace("__", "-"): value for name, value in changed.items()}
    lines = [line(name) | by_name.get(name.replace("[", "_").rstrip("]"), {}) for name in BACKEND_RESULTS]
    (found,) = summaries(lines)
    return found


def held(claims: Any) -> list[str]:
    return [claim.name for claim in claims if claim.held]


def test_summary_of_what_passes_everything() -> None:
    found = summary()
    assert (found.broken, found.open) == ((), ())
    assert set(found.kept) == {c for c, checks in CLAUSES.items() if not checks[0].startswith("allocator")}
    assert held(found.profiles) == list(PROFILES)
    assert held(found.badges) == list(BADGES)


def test_summary_breaks_with_a_failed_check() -> None:
    found = summary(poison={"status": "failed"})
    assert {"D4", "Q4", "F2"} <= set(found.broken)
    claims = {claim.name: claim for claim in (*found.profiles, *found.badges)}
    assert (claims["core"].state, claims["core"].why) == ("broken", "poison failed")
    assert (claims["window"].state, claims["window"].held) == ("broken", False)
    assert (claims["reads-only-what-it-may"].state, claims["deterministic"].held) == ("broken", True)


def test_summary_breaks_no_clause_of_a_feature_that_is_not_offered() -> None:
    """A wrong decode of a function without features breaks none of theirs, and keeps none of theirs."""
    features = {"soft-cap": "F1", "window": "F2", "alibi": "F3", "sinks": "F4", "fp8-kv": "F5"}
    without = [name for name in BACKEND_RESULTS if any(f"[{one}" in name for one in features)]
    others = [name for name in BACKEND_RESULTS if name not in without and not name.startswith("prefill")]
    for status in ("failed", "passed"):
        lines = [line(name, status) for name in others]
        (found,) = summaries([*lines, *(line(name, "unsupported") for name in without)])
        assert set(features.values()) <= set(found.open)
        assert "S1" in (found.broken if status == "failed" else found.kept)
    (found,) = summaries([line("decode[normal]", "failed"), line("decode[soft-cap]")])
    assert "F1" in found.kept
    assert "S1" in found.broken


def test_summary_of_a_crash_is_no_better() -> None:
    assert summary(repeat={"status": "crashed"}).badges[0].why == "repeat crashed"


def test_summary_bits_that_differ_cost_the_badge_alone() -> None:
    found = summary(batch={"missing_badges": {"batch-invariant": "alone: this changes the LSE"}})
    assert found.broken == ()
    assert "core" in held(found.profiles)
    (badge,) = [claim for claim in found.badges if claim.name == "batch-invariant"]
    assert (badge.held, badge.state, badge.why) == (False, "absent", "batch: alone: this changes the LSE")


@pytest.mark.parametrize("status", ["unsupported", "interrupted"])
def test_summary_earns_nothing_by_what_did_not_run(status: str) -> None:
    found = summary(guard={"status": status, "cases": 0}, guard_prefill={"status": status, "cases": 0})
    assert "C3" in found.open
    assert "reads-only-what-it-may" not in held(found.badges)


def test_summary_earns_nothing_by_a_check_without_cases() -> None:
    assert "deterministic" not in held(summaries([line("repeat", cases=0)])[0].badges)
    assert held(summaries([line("repeat")])[0].badges) == ["deterministic"]


def test_summary_tells_not_offered_from_not_judged() -> None:
    found = {
        claim.name: claim for claim in summary(decode_sinks={"status": "unsupported", "cases": 0}).profiles
    }
    assert (found["sinks"].state, found["sinks"].why) == ("not-offered", "decode[sinks] is unsupported")
    assert (found["graph-capture"].state, found["graph-capture"].held) == ("held", True)
    (few,) = summaries([line("decode[sinks]"), line("decode[normal]")])
    claims = {claim.name: claim for claim in few.profiles}
    assert claims["sinks"].held
    assert (claims["core"].state, claims["core"].held) == ("not-judged", False)
    assert claims["core"].why == "decode[spotlight] was not judged"


def test_summary_of_allocators_has_their_clauses_and_no_profiles() -> None:
    lines = [*(line(name, subject="scan", subject_kind="allocator") for name in HISTORIES), line("repeat")]
    scan, mine = summaries(lines)
    assert (scan.profiles, scan.badges) == ((), ())
    assert scan.open == ("P14",)
    assert scan.clauses == len(POOLS)
    assert all(clause[0] != "P" for clause in (*mine.kept, *mine.open))


def test_summary_keeps_no_clause_that_is_known_to_be_broken() -> None:
    theirs = {"subject": "theirs", "subject_kind": "allocator"}
    (found,) = summaries(
        [
            *(line(name, "known-failure", **theirs) for name in HISTORIES),
            line("allocator-decode", **theirs),
            line("allocator-concurrent", "unsupported", **theirs),
        ]
    )
    assert (found.kept, found.broken, found.open) == ((), (), ("P14",))
    assert set(found.deviating) == POOLS - {"P14"}
    (said,) = clause_lines([found])
    most = len(POOLS) - 1
    assert said == f"theirs: 0 of {most + 1} clauses, {most} with known deviations, 1 not judged"


def test_summary_is_kept_apart_by_device() -> None:
    found = summaries([line("repeat"), line("repeat", "failed", device="cuda")])
    assert [(s.device, bool(s.broken)) for s in found] == [("emulated", False), ("cuda", True)]


def test_summary_reads_journals_from_before_there_were_badges() -> None:
    old = line("batch")
    del old["missing_badges"]
    assert held(summaries([old])[0].badges) == ["batch-invariant"]


@pytest.mark.parametrize("check", ["decode[normal]", "guard"])
def test_summary_holds_no_profile_with_known_deviations(check: str) -> None:
    whole = [line(name) for name in names_of("core") if name != check]
    (found,) = summaries([*whole, line(check, "known-failure")])
    claim = next(claim for claim in found.profiles if claim.name == "core")
    assert (claim.held, claim.state, claim.why) == (False, "deviating", f"{check} deviates")
    assert "core" in held(summaries([*whole, line(check)])[0].profiles)


def test_summary_gives_no_badge_with_known_deviations() -> None:
    (found,) = summaries([line("repeat"), line("repeat[prefill]", "known-failure")])
    badge = next(badge for badge in found.badges if badge.name == "deterministic")
    assert (badge.held, badge.state, badge.why) == (False, "deviating", "repeat[prefill] deviates")


def names_of(profile: str) -> set[str]:
    return {*PROFILES[profile].needs, *PROFILES[profile].offered}
