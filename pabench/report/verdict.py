# SPDX-License-Identifier: Apache-2.0
"""The first thing a reader sees: one word, one sentence, the counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pabench.errors import EXIT_FAILURE, EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_NOTHING_RAN, EXIT_OK
from pabench.report.faults import Card
from pabench.report.source import KINDS, Line, Source
from pabench.report.words import join
from pabench.text import plural

MOST_CAUSES = 5
TONES = {"PASS": "passed", "FAIL": "failed", "INCOMPLETE": "warned", "NOTHING RAN": "neutral"}
ORDER = (
    "passed",
    "known-failure",
    "failed",
    "crashed",
    "hung",
    "inconclusive",
    "unchecked",
    "interrupted",
    "unsupported",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """One figure of the banner: ``27``, ``cells passed``."""

    value: int
    label: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The banner.

    Attributes:
        word: ``PASS``, ``FAIL``, ``INCOMPLETE`` or ``NOTHING RAN``.
        tone: name of its colours.
        exit_code: in words, as several runs may have several.
        headline: what is wrong, its cause first; empty where nothing is.
        sentence: what happened.
        counts: zero counts left out, but for those of what passed.
        causes: (anchor of its card, cause) where there are several, what fails most items first.
        answers: (question, answer): what else a reader wants to know first.
    """

    word: str
    tone: str
    exit_code: str
    headline: str
    sentence: str
    counts: tuple[Count, ...]
    causes: tuple[tuple[str, str], ...]
    answers: tuple[tuple[str, str], ...]


def build_verdict(source: Source, cards: Sequence[Card], answers: Sequence[tuple[str, str]]) -> Verdict:
    """Return the worst that any run or line says: a failure outweighs a hole, a hole outweighs a pass."""
    states = Counter(line.state for line in source.lines)
    codes = [run.record.get("exit_code") for run in source.runs]
    broken = [run for run in source.runs if run.record["status"] != "finished"]
    if (
        states["failed"]
        or states["crashed"]
        or _hung(source)
        or EXIT_FAILURE in codes
        or EXIT_INTERNAL in codes
    ):
        word = "FAIL"
    elif broken or EXIT_INTERRUPTED in codes or states["unchecked"] or states["inconclusive"]:
        word = "INCOMPLETE"
    elif not any(states[state] for state in ("passed", "known-failure", "hung")):
        word = "NOTHING RAN"
    elif all(code in (EXIT_OK, EXIT_NOTHING_RAN) for code in codes):
        word = "PASS"
    else:
        word = "INCOMPLETE"
    return Verdict(
        word=word,
        tone=TONES[word],
        exit_code=_exit_words(codes),
        headline=_headline(cards),
        sentence=_sentence(word, source, states, len(broken)),
        counts=_counts(source),
        causes=_causes(cards) if len(cards) > 1 else (),
        answers=tuple(answers),
    )


def _headline(cards: Sequence[Card]) -> str:
    if not cards:
        return ""
    first = cards[0]
    causes = "one cause" if len(cards) == 1 else f"first of {len(cards)} causes"
    return f"{first.subject} {first.verb}: {first.words}: {first.count}, {causes}."


def _causes(cards: Sequence[Card]) -> tuple[tuple[str, str], ...]:
    told = [(card.anchor, f"{card.subject}: {card.words}: {card.count}") for card in cards]
    more = len(told) - MOST_CAUSES
    return (*told[:MOST_CAUSES], *([("failures", f"and {more} more")] if more > 0 else []))


def _kinds(source: Source) -> tuple[tuple[Sequence[Line], str], ...]:
    """All lines by kind, and what one is called."""
    return (*((source.of(kind), noun) for kind, noun in KINDS.items()), (source.others, "item"))


def _hung(source: Source) -> bool:
    """Whether a hang is a failure; in a stress run it is a result."""
    return any(line.state == "hung" and line.data["kind"] != "stress" for line in source.lines)


def _exit_words(codes: Sequence[int | None]) -> str:
    shown = ["none yet" if code is None else str(code) for code in codes]
    return f"exit code {shown[0]}" if len(set(shown)) == 1 else f"exit codes {join(shown)}"


def _undecided(source: Source) -> str:
    """How many items of each kind nobody could decide, and why the first could not be."""
    found = {noun: [one for one in lines if one.state == "inconclusive"] for lines, noun in _kinds(source)}
    counts = join([plural(len(lines), noun) for noun, lines in found.items() if lines])
    reason = next(str(one.data.get("reason") or "") for lines in found.values() for one in lines)
    return f"{counts} could not be decided{': ' + reason if reason else ''}."


def _sentence(word: str, source: Source, states: Counter[str], broken: int) -> str:
    if word == "FAIL":
        bad = [_part(lines, noun) for lines, noun in _kinds(source)]
        said = "; ".join(part for part in bad if part)
        if not said:
            return "A run ended with an error that no line of its journal explains."
        text = f"{said[0].upper()}{said[1:]}."
        if any(line.state in ("failed", "crashed") for line in source.cells):
            text += " A wrong cell gets no figure of speed."
        return text if not broken else f"{text} {_broken_words(broken, source)}"
    if word == "INCOMPLETE":
        if states["unchecked"]:
            return f"{plural(states['unchecked'], 'cell')} ran without a check of the result."
        if broken:
            return _broken_words(broken, source)
        if states["inconclusive"]:
            return _undecided(source)
        return "A run ended early; see the exit code."
    if word == "NOTHING RAN":
        if states["unsupported"]:
            return "Nothing asked for is supported here; the reasons are below."
        return "The journal holds no finished check and no finished cell."
    parts = []
    if checks := [line for line in source.checks if line.state == "passed"]:
        cases = sum(line.data.get("cases") or 0 for line in checks)
        over = f" over {plural(cases, 'generated case')}" if cases else ""
        parts.append(f"{plural(len(checks), 'check')} passed{over}")
    if states["known-failure"]:
        found = plural(states["known-failure"], "check")
        parts.append(f"{found} found known deviations alone, named below")
    if cells := [line for line in source.cells if line.state == "passed"]:
        parts.append(f"{plural(len(cells), 'cell')} ran, each result checked against the oracle")
    if servers := [line for line in source.servers if line.state == "passed"]:
        served = sum((line.data.get("figures") or {}).get("served") or 0 for line in servers)
        parts.append(f"{plural(len(servers), 'server')} served {plural(served, 'request')}")
    if stress := [line for line in source.stress if line.state in ("passed", "hung")]:
        late = sum(line.state == "hung" for line in stress)
        parts.append(
            f"{plural(len(stress), 'stress cell')} ran" + (f", {late} into the deadline" if late else "")
        )
    if models := [line for line in source.models if line.state == "passed"]:
        tokens = sum(len(answer["token"]) for line in models for answer in line.data["answers"])
        made = f"{plural(len(models), 'model run')} made {plural(tokens, 'token')}"
        parts.append(f"{made}, all as dense attention has them")
    if others := [line for line in source.others if line.state == "passed"]:
        parts.append(f"{plural(len(others), 'item')} passed")
    skipped = states["unsupported"]
    tail = f" {plural(skipped, 'item')} {'is' if skipped == 1 else 'are'} unsupported." if skipped else ""
    return f"{join(parts)}.{tail}"


def _part(lines: Sequence[Line], noun: str) -> str:
    states = Counter(line.state for line in lines)
    total = len(lines) - states["unsupported"] - states["interrupted"]
    if lines and lines[0].data["kind"] == "stress":
        del states["hung"]
    said = [f"{states[s]:,} {s}" for s in ("failed", "crashed", "hung") if states[s]]
    return f"of {plural(total, noun)}, {join(said)}" if said else ""


def _broken_words(broken: int, source: Source) -> str:
    done = plural(sum(line.state != "interrupted" for line in source.lines), "finished item")
    what = "The run" if len(source.runs) == 1 else plural(broken, "run")
    stopped = any(run.record["status"] == "interrupted" for run in source.runs)
    return f"{what} {'was interrupted' if stopped else 'did not end'}; {done} in the journal can be trusted."


def _counts(source: Source) -> tuple[Count, ...]:
    counts = []
    for lines, noun in _kinds(source):
        states = Counter(line.state for line in lines)
        for state in ORDER:
            if states[state] or (lines and state == "passed"):
                name = noun if states[state] == 1 else f"{noun}s"
                words = "with known deviations" if state == "known-failure" else state.replace("-", " ")
                counts.append(Count(value=states[state], label=f"{name} {words}", state=state))
    cases = sum(line.data.get("cases") or 0 for line in source.checks)
    if cases:
        counts.append(Count(value=cases, label="generated cases", state="neutral"))
    return tuple(counts)
