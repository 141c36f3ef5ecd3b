# SPDX-License-Identifier: Apache-2.0
"""Runs in the forms that CI services show: annotations of sources, a job summary, a badge."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pabench.comparison.words import cell
from pabench.report.answers import build_answers
from pabench.report.faults import Card, build_cards
from pabench.report.notes import build_warnings
from pabench.report.source import Source, build_source
from pabench.report.summaries import build_summaries
from pabench.report.verdict import Verdict, build_verdict
from pabench.run.files import pretty
from pabench.run.read import Run
from pabench.text import one_line

MOST_ANNOTATIONS = 10
"""GitHub shows that many errors of a step."""
MOST_CAUSES = 50
SOURCES = (".py", ".cu", ".cuh", ".ptx")
SOURCE = re.compile(r"(?:\(|\bat )([^()\s:]+\.(?:py|cu|cuh|ptx)):(\d+)")
"""A place in a source, as verdicts name it: ``(my_kernel.py:12 in decode)``, ``write at race.cu:18``."""
SHIELDS = {"passed": "brightgreen", "failed": "red", "warned": "yellow", "neutral": "lightgrey"}


def annotation_lines(runs: Sequence[Run]) -> bytes:
    """Return an ``::error`` line for each cause, at the line of the source where one is known."""
    _, cards, _ = _told(runs)
    lines = [_annotation(card) for card in cards[:MOST_ANNOTATIONS]]
    if (more := len(cards) - MOST_ANNOTATIONS) > 0:
        lines.append(f"::notice title=pabench::{more} more causes are in the report")
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def summary(runs: Sequence[Run]) -> bytes:
    """Return Markdown for a job: the verdict, its causes with the command that repeats each, the answers."""
    source, cards, verdict = _told(runs)
    lines = [
        f"### pabench: {cell(verdict.word)}",
        "",
        cell(f"{verdict.headline} {verdict.sentence}".strip()),
        "",
    ]
    if cards:
        lines += ["| cause | in | first | run it again |", "| --- | --- | --- | --- |"]
        lines += [_row(card) for card in cards[:MOST_CAUSES]]
        if (more := len(cards) - MOST_CAUSES) > 0:
            lines.append(f"| and {more} more causes | | | |")
        lines.append("")
    answers = build_answers(source, build_summaries(source), None)
    lines += [f"- **{cell(question)}**: {cell(answer)}" for question, answer in answers]
    lines += [f"- {cell(warning)}" for warning in build_warnings(source)]
    return ("\n".join(lines).rstrip() + "\n").encode("utf-8", "replace")


def badge(runs: Sequence[Run]) -> bytes:
    """Return the JSON of an endpoint badge of shields.io: the word, and how many items it rests on."""
    source, cards, verdict = _told(runs)
    judged = [line for line in source.lines if line.state not in ("unsupported", "interrupted")]
    bad = sum(len(card.failures) for card in cards)
    said = f"{bad} of {len(judged)} wrong" if bad else f"{len(judged)} judged"
    told: dict[str, Any] = {"schemaVersion": 1, "label": "pabench", "message": f"{verdict.word}, {said}"}
    return pretty({**told, "color": SHIELDS[verdict.tone]}).encode()


CI_FORMATS: dict[str, Callable[[Sequence[Run]], bytes]] = {
    "annotations": annotation_lines,
    "summary": summary,
    "badge": badge,
}
"""Name to what writes it."""


def _told(runs: Sequence[Run]) -> tuple[Source, tuple[Card, ...], Verdict]:
    source = build_source(runs)
    cards = build_cards(source, drawn=False)
    return source, cards, build_verdict(source, cards, ())


def _annotation(card: Card) -> str:
    file, line = _place(card)
    at = [f"file={_property(file)}", *([f"line={line}"] if line else [])] if file else []
    text = f"{card.subject} {card.verb}: {card.words}: {card.count}"
    if card.place:
        text += f"; {card.example.check}: {card.place}"
    if card.example.replay:
        text += f"\nagain: {card.example.replay}"
    return f"::error {','.join([*at, 'title=pabench'])}::{_data(text)}"


def _place(card: Card) -> tuple[str, int]:
    """File and line to blame: of what was raised or found in the subject, else where it is defined."""
    file, colon, name = card.subject.partition(":")
    if not file.endswith(SOURCES):
        file, colon = "", ""
    for failure in card.failures:
        for text in (failure.text, *(row.at for row in failure.findings)):
            if (found := SOURCE.search(text)) is None:
                continue
            if file and Path(found[1]).name == Path(file).name:
                return _relative(file), int(found[2])
            # a reason may end in a file of pabench, or of a library
            if Path(found[1]).is_file():
                return _relative(found[1]), int(found[2])
    if not file:
        return "", 0
    return _relative(file), _line_of(Path(file), name) if colon else 1


def _line_of(file: Path, name: str) -> int:
    """Line where a module defines ``name``; 1 where that cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return 1
    defined = re.compile(rf"(?:def|class)\s+{re.escape(name)}\b|{re.escape(name)}\s*[:=]")
    return next((at for at, line in enumerate(lines, start=1) if defined.match(line)), 1)


def _relative(file: str) -> str:
    """A path as the repository has it, where the file lies below the working folder."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else file


def _row(card: Card) -> str:
    first = f"{card.example.check}: {card.place}" if card.place else card.example.check
    cause = f"{card.subject} {card.verb}: {card.words}"
    return f"| {cell(cause)} | {cell(card.count)} | {cell(first)} | {cell(card.example.replay)} |"


def _data(text: str) -> str:
    # lines of an annotation are kept, everything else that could end it is not
    shown = "\n".join(one_line(line) for line in text.split("\n"))
    return shown.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
