# SPDX-License-Identifier: Apache-2.0
"""A comparison in words: for a terminal, and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pabench.comparison.compare import Comparison
from pabench.comparison.delta import CLASSES, Change, Delta
from pabench.text import one_line, shown

MARKDOWN_LIMIT = 65_536
"""Characters that GitHub takes for a comment."""
ROOM = 400
"""Of them, for what closes the text."""
ORDER = (
    *(Change.NEWLY_FAILING, Change.LOST, Change.MORE, Change.SLOWER, Change.UNSURE, Change.NEARER),
    *(Change.CHANGED, Change.NEWLY_PASSING, Change.GAINED, Change.LESS, Change.FASTER, Change.NEW),
)
"""Worst first; what is the same is counted alone."""


def headline(found: Comparison) -> str:
    """Return the answer in one line."""
    worse, unsure = found.worse, found.counts.get(Change.UNSURE, 0)
    if worse:
        first = worse[0]
        more = f", and {len(worse) - 1} more" if len(worse) > 1 else ""
        return f"WORSE: {change_words(first)}: {first.label}{more}"
    if unsure:
        said = next(delta for delta in found.deltas if delta.change == Change.UNSURE)
        return f"UNSURE: {unsure} of {len(found.deltas)} could not be told: {said.label}: {said.reason}"
    better = sum(found.counts.get(one, 0) for one in (Change.FASTER, Change.LESS, Change.NEWLY_PASSING))
    return f"NO WORSE: {len(found.deltas)} compared, {better} better, none worse"


def change_words(delta: Delta) -> str:
    """Return what became of one line: ``run_ns SLOWER 1.05x (1.03 to 1.07)``."""
    if delta.figure == "status":
        return str(delta.change)
    parts = [delta.figure, str(delta.change)]
    if delta.ratio is not None:
        parts.append(f"{delta.ratio:.3g}x" if delta.low is None else f"{delta.ratio:.3f}x")
    if delta.low is not None and delta.high is not None and delta.change != Change.SAME:
        parts.append(f"({delta.low:.3f} to {delta.high:.3f})")
    return " ".join(parts)


def ordered(found: Comparison) -> list[Delta]:
    """Return the lines that are not the same: regressions first, those accepted last of their kind."""
    place = {change: number for number, change in enumerate(ORDER)}
    told = [delta for delta in found.deltas if delta.change in place]
    return sorted(told, key=lambda delta: (not delta.worse, place[delta.change], -(delta.ratio or 0.0)))


def text_lines(found: Comparison, *, limit: int | None = 40) -> Iterator[str]:
    """Yield the comparison for a terminal: the answer, the lines that differ, counts, what else differs."""
    yield headline(found)
    told = ordered(found)
    for delta in told[:limit]:
        yield f"  {change_words(delta)}"
        yield f"    {one_line(delta.label)}{'' if delta.subject in delta.label else f', {delta.subject}'}"
        if delta.base is not None or delta.new is not None:
            yield f"    {_value(delta.base)} -> {_value(delta.new)}"
        for said in (delta.reason, delta.accepted and f"accepted: {delta.accepted}"):
            if said:
                yield f"    {one_line(said)}"
    if limit is not None and len(told) > limit:
        yield f"  ... and {len(told) - limit} more; --all shows them"
    yield from _counts(found)
    for note in found.notes:
        yield f"note: {one_line(note)}"
    if found.differences:
        yield "the runs differ in:"
        for one in found.differences:
            yield f"  {one_line(one.name)}: {_fact(one.base)} -> {_fact(one.new)}"


def markdown(found: Comparison) -> str:
    """Return the comparison as Markdown of at most ``MARKDOWN_LIMIT`` characters; what is cut is counted."""
    head = [
        f"### pabench compare: {cell(headline(found))}",
        "",
        f"`{_code(found.base)}` -> `{_code(found.new)}`",
        "",
        *(f"- {cell(line)}" for line in _counts(found)),
        *(f"- {cell(note)}" for note in found.notes),
        "",
    ]
    table = ["| change | figure | item | base | new | why |", "| --- | --- | --- | --- | --- | --- |"]
    rows = [
        f"| {delta.change} | {cell(change_words(delta))} | {cell(delta.label)} | {cell(_value(delta.base))} "
        f"| {cell(_value(delta.new))} | {cell(delta.accepted or delta.reason)} |"
        for delta in ordered(found)
    ]
    facts = [
        f"- {cell(one.name)}: {cell(_fact(one.base))} -> {cell(_fact(one.new))}" for one in found.differences
    ]
    lines = _fitting([*head, *(table if rows else [])], rows, "rows")
    return _joined(
        _fitting([*lines, "", "Differences between the runs:", ""] if facts else lines, facts, "facts")
    )


def _fitting(lines: list[str], more: Sequence[str], noun: str) -> list[str]:
    used = len(_joined(lines))
    for place, line in enumerate(more):
        used += len(line) + 1
        if used > MARKDOWN_LIMIT - ROOM:
            return [*lines, "", f"... and {len(more) - place} {noun} more."]
        lines = [*lines, line]
    return lines


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


def _counts(found: Comparison) -> Iterator[str]:
    for part in CLASSES:
        of = [delta for delta in found.deltas if delta.part == part]
        if of:
            order: Callable[[Change], int] = [*ORDER, Change.SAME].index
            changes = sorted({delta.change for delta in of}, key=order)
            said = ", ".join(f"{sum(one.change == each for one in of)} {each}" for each in changes)
            yield f"{part}: {len(of)} compared: {said}"
    accepted = sum(bool(delta.accepted) for delta in found.deltas)
    if accepted:
        yield f"{accepted} accepted"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else one_line(str(value))


def _fact(value: Any) -> str:
    return "none" if value is None else shown(value) if not isinstance(value, str) else one_line(value)


def cell(text: str) -> str:
    """Text that can end neither its cell nor the table, and is no markup."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for char in "\\`*_|[]~@#":
        text = text.replace(char, f"\\{char}")
    return text


def _code(text: str) -> str:
    return one_line(text).replace("`", "'")
