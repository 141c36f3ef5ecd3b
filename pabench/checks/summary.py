# SPDX-License-Identifier: Apache-2.0
"""What a run shows of a subject: clauses, profiles and badges, computed from the results of a run alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pabench.checks.specification import BADGES, CLAUSES, PROFILES, Profile
from pabench.checks.suite import QUESTIONS

Line = Mapping[str, Any]
"""A result as in the journal."""

ALLOCATOR = "allocator"
MOST_NAMED = 8
"""Broken clauses that a line names; the report has all."""
ROWS = {clause: {row.id for row in QUESTIONS if clause in row.clauses} for clause in CLAUSES}
"""Clause to the results that test it."""
ALONE = {clause: {row.id for row in QUESTIONS if row.clauses == (clause,)} for clause in CLAUSES}
"""Clause to the results that test nothing else: those of a feature."""
KNOWN = {row.id for row in QUESTIONS}
"""Results of this suite; older runs may have others, which count by their check."""
JUDGED, BAD = ("passed", "known-failure"), ("failed", "crashed", "hung")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A profile or badge of a subject.

    Attributes:
        name: of the profile or badge.
        held: every result it needs has run and passed.
        state: ``held``, ``broken``, ``deviating``, ``not-offered`` or ``not-judged``; of a badge that was
            looked for and not found, ``absent``.
        by: the checks it rests on.
        why: what is in its way; empty when it is held.
    """

    name: str
    held: bool
    state: str
    by: tuple[str, ...]
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformanceSummary:
    """What a run says of one subject on one device.

    Attributes:
        kept: clauses of which a check passed, and none failed or found known deviations.
        deviating: clauses of which a check found known deviations and nothing else.
        broken: clauses of which a check failed.
        open: clauses of which no check has judged a case.
        profiles, badges: of attention backends; empty for allocators.
    """

    subject: str
    subject_kind: str
    device: str
    kept: tuple[str, ...]
    deviating: tuple[str, ...]
    broken: tuple[str, ...]
    open: tuple[str, ...]
    profiles: tuple[Claim, ...]
    badges: tuple[Claim, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @property
    def clauses(self) -> int:
        """How many clauses there are for subjects of this kind."""
        return len(self.kept) + len(self.deviating) + len(self.broken) + len(self.open)


def summaries(lines: Sequence[Line]) -> tuple[ConformanceSummary, ...]:
    """Return the summary of every subject and device in ``lines``, in the order of their first result."""
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        key = (str(line["subject"]), str(line.get("subject_kind") or "backend"), str(line["device"]))
        groups.setdefault(key, []).append(line)
    return tuple(_summary(*key, found) for key, found in groups.items())


def clause_lines(found: Sequence[ConformanceSummary]) -> Iterator[str]:
    """Yield the summaries in words: a line each, and one for each badge that was looked for in vain."""
    for subject in found:
        unjudged = f", {len(subject.open)} not judged" if subject.open else ""
        some = ", ".join(subject.broken[:MOST_NAMED])
        more = len(subject.broken) - MOST_NAMED
        broken = (
            f", {len(subject.broken)} broken ({some}{', ...' if more > 0 else ''})" if subject.broken else ""
        )
        known = f", {len(subject.deviating)} with known deviations" if subject.deviating else ""
        parts = [f"{len(subject.kept)} of {subject.clauses} clauses{known}{unjudged}{broken}"]
        for kind, claims in (("profiles", subject.profiles), ("badges", subject.badges)):
            held = [claim.name for claim in claims if claim.held]
            parts += [f"{kind} {', '.join(held) or 'none'}"] if claims else []
        yield f"{subject.subject}: {'; '.join(parts)}"
        for claim in subject.badges:
            if claim.state == "absent":
                yield f"  badge {claim.name} is optional and not earned: {claim.why}"


def _summary(subject: str, kind: str, device: str, lines: Sequence[Line]) -> ConformanceSummary:
    states = {
        clause: _clause(lines, clause, checks) for clause, checks in CLAUSES.items() if _kind(checks) == kind
    }
    backend = kind != ALLOCATOR
    return ConformanceSummary(
        subject=subject,
        subject_kind=kind,
        device=device,
        kept=tuple(clause for clause, state in states.items() if state == "kept"),
        deviating=tuple(clause for clause, state in states.items() if state == "deviating"),
        broken=tuple(clause for clause, state in states.items() if state == "broken"),
        open=tuple(clause for clause, state in states.items() if state == "open"),
        profiles=tuple(profile_claim(name, p, lines) for name, p in PROFILES.items()) if backend else (),
        badges=tuple(_badge(name, lines) for name in BADGES) if backend else (),
    )


def _kind(checks: Sequence[str]) -> str:
    return ALLOCATOR if checks[0].startswith(ALLOCATOR) else "backend"


def _clause(lines: Sequence[Line], clause: str, checks: Sequence[str]) -> str:
    alone = [line for line in lines if line["check"] in ALONE.get(clause, ())]
    if alone and all(line["status"] == "unsupported" for line in alone):
        # of a feature that is not offered: what failed for another reason says nothing of it
        return "open"
    found = [
        line
        for check in checks
        for line in _named(lines, check)
        if line["check"] in ROWS[clause] or line["check"] not in KNOWN
    ]
    if any(line["status"] in BAD for line in found):
        return "broken"
    if any(line["status"] == "known-failure" for line in found):
        return "deviating"
    return "kept" if any(_judged(line) for line in found) else "open"


def profile_claim(name: str, profile: Profile, lines: Sequence[Line]) -> Claim:
    """Return whether the results of one subject keep a profile, and what is in its way."""
    missing: list[tuple[str, str]] = []
    deviating: str | None = None
    for wanted in (*profile.needs, *profile.offered):
        found = _named(lines, wanted)
        if bad := next((line for line in found if line["status"] in BAD), None):
            why = f"{bad['check']} {bad['status']}"
            return Claim(name=name, held=False, state="broken", by=profile.needs, why=why)
        deviating = deviating or _deviating(found)
        if wanted in profile.needs and not any(_judged(line) for line in found):
            unsupported = bool(found) and all(line["status"] == "unsupported" for line in found)
            missing.append((wanted, "not-offered" if unsupported else "not-judged"))
    if deviating:
        return Claim(name=name, held=False, state="deviating", by=profile.needs, why=f"{deviating} deviates")
    if not missing:
        return Claim(name=name, held=True, state="held", by=profile.needs)
    state = "not-judged" if any(state == "not-judged" for _, state in missing) else "not-offered"
    first = next(wanted for wanted, found in missing if found == state)
    words = {"not-judged": "was not judged", "not-offered": "is unsupported"}[state]
    return Claim(name=name, held=False, state=state, by=profile.needs, why=f"{first} {words}")


def _badge(name: str, lines: Sequence[Line]) -> Claim:
    by = BADGES[name].by

    def without(state: str, why: str) -> Claim:
        return Claim(name=name, held=False, state=state, by=by, why=why)

    for check in by:
        found = _named(lines, check)
        for line in found:
            if line["status"] in BAD:
                return without("broken", f"{line['check']} {line['status']}")
            if name in (line.get("missing_badges") or {}):
                return without("absent", f"{line['check']}: {line['missing_badges'][name]}")
        if deviating := _deviating(found):
            return without("deviating", f"{deviating} deviates")
        if not any(line["status"] == "passed" and line["cases"] for line in found):
            return without("not-judged", f"{check} has not run and passed")
    return Claim(name=name, held=True, state="held", by=by)


def _deviating(lines: Sequence[Line]) -> str | None:
    """The first check that found known deviations: it has neither failed nor passed."""
    return next((str(line["check"]) for line in lines if line["status"] == "known-failure"), None)


def _judged(line: Line) -> bool:
    return line["status"] in JUDGED and bool(line["cases"])


def _named(lines: Sequence[Line], name: str) -> list[Line]:
    """Results called ``name``, or of the check ``name`` whatever their label."""
    return [line for line in lines if name in (line["check"], str(line["check"]).split("[")[0])]
