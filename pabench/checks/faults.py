# SPDX-License-Identifier: Apache-2.0
"""One fault, one verdict: the failing checks of a run, grouped by what explains them.

A small case fits many explanations, and one fault fails many checks.  The explanation that fits most of a
subject's failing checks is taken for all of these, then the next for what is left.  Checks that nothing
explains are grouped by what was said of them, without its numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pabench.judge.suspect import name_of
from pabench.run.record import BROKEN
from pabench.text import one_line

PLACE = re.compile(r"sequence \d+, ")
"""Where a judged output is wrong; what stands before it is the variation that a check made."""
REFUSED = re.compile(r"^.*: refused or right, was (?=.)")
"""What a check of refusals says before the fault itself."""
COUNTS = re.compile(r" \(\d+ of \d+ outputs.*\)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFault:
    """One thing that is wrong with a subject.

    Attributes:
        subject: who is wrong.
        words: what is wrong, in a few words.
        place: where, with numbers, of the first of them; empty where the words say it all.
        lines: of the checks that show it.
    """

    subject: str
    words: str
    place: str
    lines: tuple[Mapping[str, Any], ...] = field(repr=False)

    @property
    def checks(self) -> tuple[str, ...]:
        """Ids of the checks that show it."""
        return tuple(str(line["check"]) for line in self.lines)

    @property
    def first(self) -> Mapping[str, Any]:
        """The line of the first check that shows it without a variation of its own, if there is one."""
        return _plainest(self.lines)


def faults_of(lines: Sequence[Mapping[str, Any]]) -> tuple[FoundFault, ...]:
    """Return what is wrong, what fails most checks first.

    Args:
        lines: flat records of a conformance run; those that are not broken are left out.
    """
    left = [line for line in lines if line["status"] in BROKEN]
    found: list[FoundFault] = []
    while left:
        votes = Counter((line["subject"], name) for line in left for name in line.get("causes") or {})
        if not votes:
            break
        most = max(votes.values())
        # of several that fit as many, the one that the first line names first
        subject, name = next(
            (line["subject"], name)
            for line in left
            for name in line.get("causes") or {}
            if votes[line["subject"], name] == most
        )
        mine = [line for line in left if line["subject"] == subject and name in (line.get("causes") or {})]
        left = [line for line in left if line not in mine]
        found.append(_fault(mine, str(_plainest(mine)["causes"][name])))
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for line in left:
        words = _said(line)
        groups.setdefault((line["subject"], line["status"], name_of(words)), []).append(line)
    found += [_fault(mine, _said(mine[0])) for mine in groups.values()]
    return tuple(sorted(found, key=lambda one: -len(one.checks)))


def _fault(lines: Sequence[Mapping[str, Any]], words: str) -> FoundFault:
    return FoundFault(
        subject=str(lines[0]["subject"]),
        words=words,
        place=place_of(_plainest(lines).get("reason")),
        lines=tuple(lines),
    )


def _plainest(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((line for line in lines if PLACE.match(str(line.get("reason") or ""))), lines[0])


def _said(line: Mapping[str, Any]) -> str:
    """What a verdict ends with, the explanation or the fault itself, without the variation of the check."""
    text = COUNTS.sub("", one_line(line.get("reason") or str(line["status"])))
    if (place := PLACE.search(text)) is not None:
        parts = text[place.start() :].split("; ")
        return parts[-1] if len(parts) > 1 else parts[0]
    text = REFUSED.sub("", text)
    head, colon, rest = text.partition(": ")
    return rest if colon and head.startswith(("with ", "plan ")) else text


def place_of(reason: str | None) -> str:
    """Return where an output is wrong, with its numbers, from what a verdict says; empty if nowhere."""
    text = one_line(reason or "")
    place = PLACE.search(text)
    return "" if place is None else text[place.start() :].split("; ")[0]


def verdict_lines(reason: str | None) -> list[str]:
    """Return a verdict in lines: what explains it, where it is seen, the numbers, how much is wrong.

    A reason that is no judged output is a line of its own.
    """
    text = one_line(reason or "")
    found = PLACE.search(text)
    if found is None:
        return [text]
    counts = COUNTS.search(text)
    variation, judged = text[: found.start()].strip(": "), COUNTS.sub("", text[found.start() :])
    at, *more = judged.split("; ")
    where, _, numbers = at.partition(": ")
    explained = [more.pop()] if more and " match" in more[-1] else []
    lines = [*explained, ", ".join(part for part in (where, variation) if part), numbers, *more]
    return [line for line in (*lines, counts[0].strip(" ()") if counts else "") if line]
