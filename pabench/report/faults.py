# SPDX-License-Identifier: Apache-2.0
"""What is wrong, one card a cause: however many checks, cells or servers a fault fails, it is told once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabench.checks.faults import FoundFault, faults_of, place_of
from pabench.report.findings import FindingRow, finding_rows
from pabench.report.page_table import SEQUENCE, PageTable, build_page_table
from pabench.report.source import KINDS, Line, Source
from pabench.report.titles import line_title
from pabench.report.words import DASH, digits, number
from pabench.text import plural

BAD = ("failed", "crashed", "hung")
MOST_DRAWN = 12
"""Cards with a picture."""
TRIED = 8
"""Failures of one cause that are looked at for a case that can be drawn."""
VERBS = {"failed": "is wrong", "crashed": "crashes", "hung": "hangs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failure in words; ``traceback`` is that of a subject that raised, empty without one."""

    title: str
    check: str
    state: str
    worst: str
    text: str
    case_id: str
    path: str
    replay: str
    findings: tuple[FindingRow, ...] = ()
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One cause.

    Attributes:
        anchor: its id on the page.
        subject, verb, words: ``my_kernel.py:decode``, ``is wrong``, ``its last key missing``.
        count: how many items show it.
        example: the failure that is told in full: where a case can be drawn, that one.
        place: where it is wrong, with numbers; empty where the words say it all.
        picture: the block table of its case.
        failures: all of them, the example among them.
    """

    anchor: str
    subject: str
    verb: str
    words: str
    count: str
    example: Failure
    place: str
    picture: PageTable | None
    failures: tuple[Failure, ...]


def build_cards(source: Source, *, drawn: bool = True) -> tuple[Card, ...]:
    """Return a card for each cause, what fails most items first; ``drawn`` with pictures of their cases."""
    bad = [line for line in source.lines if line.state in BAD and not _is_result(line)]
    found = faults_of([_told(place, line) for place, line in enumerate(bad)])
    most = MOST_DRAWN if drawn else 0
    return tuple(
        _card(place, fault, bad, source, drawn=place <= most) for place, fault in enumerate(found, start=1)
    )


def cause_of(cards: Sequence[Card]) -> dict[tuple[str, str], Card]:
    """Return the card of each failed check, by (subject, check)."""
    return {(card.subject, failure.check): card for card in cards for failure in card.failures}


def _is_result(line: Line) -> bool:
    """Whether what looks bad is what was looked for: a stress cell into the deadline."""
    return line.state == "hung" and line.data["kind"] == "stress"


def _told(place: int, line: Line) -> Mapping[str, Any]:
    """What ``faults_of`` reads of a line, whatever its activity."""
    data = line.data
    subject = data["backend"] if data["kind"] == "sweep" else data["subject"]
    causes = data.get("causes")
    return {
        "place": place,
        "subject": str(subject),
        "status": line.state,
        "check": data["check"] if isinstance(data.get("check"), str) else line_title(line),
        "reason": _text(line),
        "causes": causes if isinstance(causes, dict) else {},
    }


def _text(line: Line) -> str:
    data, check = line.data, line.data.get("check")
    own = check if isinstance(check, dict) else data
    failure = data.get("failure") or {}
    return str(failure.get("text") or own.get("text") or data.get("reason") or "The journal gives no reason.")


def _card(place: int, fault: FoundFault, bad: Sequence[Line], source: Source, *, drawn: bool) -> Card:
    lines = [bad[told["place"]] for told in fault.lines]
    failures = [_failure(line, told["check"]) for line, told in zip(lines, fault.lines, strict=True)]
    anchor, pictures = f"fault-{place}", list[tuple[int, PageTable]]()
    # the verdict of a check that changed the case first says nothing about the saved one
    plain = [at for at, one in enumerate(failures) if one.path and SEQUENCE.match(one.text)]
    for at in plain[:TRIED] if drawn else ():
        folder = _folder(source.runs[lines[at].run].path, failures[at].path)
        if folder is None:
            continue
        made = build_page_table(folder, failures[at].text, fault.words, f"{anchor}-table")
        if made is not None:
            pictures.append((at, made))
    # pages of one token show least of where a fault lies
    at, picture = max(pictures, key=lambda one: one[1].page_size > 1, default=(0, None))
    example = failures[at]
    where = place_of(example.text)
    return Card(
        anchor=anchor,
        subject=fault.subject,
        verb=VERBS[lines[0].state],
        words=fault.words,
        count=_count(lines),
        example=example,
        place="" if where == fault.words else where,
        picture=picture,
        failures=tuple(failures),
    )


def _folder(run: Path, path: str) -> Path | None:
    """The case directory that a journal names, if it lies in the run: a journal may come from anywhere."""
    try:
        folder = (run / path).resolve()
        return folder if folder.is_relative_to(run.resolve()) else None
    except (OSError, ValueError, RuntimeError):
        return None


def _count(lines: Sequence[Line]) -> str:
    kinds = {line.data["kind"] for line in lines}
    noun = KINDS.get(next(iter(kinds)), "item") if len(kinds) == 1 else "item"
    return plural(len(lines), noun)


def _failure(line: Line, check: str) -> Failure:
    data, failure, own = line.data, line.data.get("failure") or {}, line.data.get("check")
    judged = own if isinstance(own, dict) else data
    path = failure.get("path") or ""
    return Failure(
        title=line_title(line),
        check=check,
        state=line.state,
        worst=digits(number(judged.get("max_ratio"))),
        text=_text(line),
        case_id=failure.get("case_id") or judged.get("case_id") or DASH,
        path=path,
        replay=failure.get("replay") or (f"pabench replay {path}" if path else ""),
        findings=finding_rows(data.get("findings")),
        traceback=str(data.get("traceback") or ""),
    )
