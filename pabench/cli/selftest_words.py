# SPDX-License-Identifier: Apache-2.0
"""What ``pabench selftest`` prints: a table of what was asked, what went wrong, and one line at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pabench.problem.dtypes import DTYPES
from pabench.run.record import Record, Status
from pabench.text import one_line

CHECK_WIDTH = 44
SHOWN_FAILURES = 10


def mutant_lines(records: Sequence[Record], seeds: int, *, named: bool) -> Iterator[str]:
    """Yield a line a mutant, why some live, and the count; ``named``: a check is named for each."""
    from pabench.selftest.kills import counts

    width = _width(records)
    yield f"{'mutant':<{width}}  {'killed':<7}  {'by':<{CHECK_WIDTH}}  smallest err/T"
    for record in records:
        figures = record.figures
        shown = f"{figures['killed'].value}/{figures['seeds'].value}" if "killed" in figures else "-"
        checks = ", ".join(record.details.get("checks", ())) or "-"
        ratio = f"{float(figures['max_ratio'].value):.3g}" if "max_ratio" in figures else "-"
        yield f"{record.subject.name:<{width}}  {shown:<7}  {checks:<{CHECK_WIDTH}}  {ratio}"
    words = {Status.FAILED: "LIVES", Status.UNSUPPORTED: "NOT JUDGED"}
    for record in records:
        if record.status != Status.PASSED:
            word = words.get(record.status, str(record.status).upper())
            yield f"{word} {record.label}: {one_line(record.reason or '')}"
    found = counts(records)
    another = f", {found['by_another']} by another check than the one named" if named else ""
    left = len(records) - found["judged"]
    yield (
        f"{found['killed']}/{found['judged']} killed in {seeds} of {seeds} seeds{another}"
        f"{f', {left} not judged' if left else ''}"
    )


def control_lines(records: Sequence[Record], seeds: int, *, beside_tool: bool) -> Iterator[str]:
    """Yield a line a control, what is wrong, and the counts; ``beside_tool``: compute-sanitizer ran too."""
    from pabench.selftest.controls import counts, tool_counts

    width = _width(records)
    head = f"{'control':<{width}}  {'expected':<8}  "
    head += "checked device  place" if beside_tool else "found        place  seeds"
    yield head + ("  tool        sanitizer  place" if beside_tool else "")
    for record in records:
        if "expected" in record.details:
            yield _control_line(record, width, beside_tool=beside_tool)
    for record in records:
        if record.status != Status.PASSED:
            yield f"WRONG {record.label}: {one_line(record.reason or str(record.status))}"
    if beside_tool:
        theirs = tool_counts(records)
        yield (
            f"compute-sanitizer: {theirs['flagged']}/{theirs['looked_for']} flagged where a tool looks, "
            f"{theirs['twins_flagged']} correct look-alikes flagged"
        )
    ours = counts(records)
    yield (
        f"{ours['right']}/{ours['controls']} flagged, {ours['false_alarms']} false alarms "
        f"in {ours['twins']} correct look-alikes, {seeds} schedules each"
    )


def bound_lines(records: Sequence[Record], seed: int) -> Iterator[str]:
    """Yield the largest err/T by kind and dtype, the first right kernels that failed, and the count."""
    from pabench.selftest.bound import largest_ratios

    ratios = largest_ratios(records)
    width = max(map(len, ("largest err/T", *ratios)))
    yield f"{'largest err/T':<{width}}  " + "  ".join(f"{name:>8}" for name in DTYPES)
    for kind, of_kind in ratios.items():
        cells = (f"{of_kind[name]:.3f}" if name in of_kind else "-" for name in DTYPES)
        yield f"{kind:<{width}}  " + "  ".join(f"{cell:>8}" for cell in cells)
    failures = [text for record in records for text in record.details.get("failures", ())]
    for failure in failures[:SHOWN_FAILURES]:
        yield f"FALSE ALARM {failure}"
    trials = sum(int(record.figures["trials"].value) for record in records if "trials" in record.figures)
    yield f"{trials - len(failures)}/{trials} right kernels pass, seed {seed}"


def _width(records: Sequence[Record]) -> int:
    return max((len(record.subject.name) for record in records), default=0)


def _control_line(record: Record, width: int, *, beside_tool: bool) -> str:
    told = record.details
    found = "+".join(told["found"])
    begin = f"{record.subject.name:<{width}}  {told['expected']:<8}  "
    place = _yes_no(told["place_right"])
    if not beside_tool:
        wrong = "" if record.status == Status.PASSED else "  WRONG"
        seeds = f"{record.figures['flagged'].value}/{record.figures['seeds'].value}"
        return f"{begin}{found or '-':<11}  {place:<5}  {seeds}{wrong}"
    theirs = told["compute_sanitizer"] or {"tool": "-", "place_right": None}
    wrong = "" if record.status == Status.PASSED else "  WRONG"
    return (
        f"{begin}{found or 'clean':<14}  {place:<5}  {theirs['tool']:<10}  "
        f"{told['state']:<9}  {_yes_no(theirs['place_right'])}{wrong}"
    )


def _yes_no(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"


def suite_lines(records: Sequence[Record]) -> Iterator[str]:
    """Yield a row a fault and a column a suite, as Markdown, and the counts."""
    from pabench.selftest.on_trial.peers import SUITES
    from pabench.selftest.on_trial.plug import counts

    found = counts(records)
    names = [name for name in found["killed"] if name in SUITES]
    for name in names:
        suite = SUITES[name]
        yield f"{suite.title} ({suite.source}): {suite.inputs}; {suite.rule}"
    yield f"| fault | {' | '.join(SUITES[name].title for name in names)} | pabench |"
    yield f"| --- |{' ---: |' * len(names)} --- |"
    for record in records:
        told = record.details
        if "red" in told:
            cells = (f"{told['red'][name] or 'none'} of {told['calls'][name]}" for name in names)
            yield f"| {told['about']} | {' | '.join(cells)} | {told['killed_by'] or 'LIVES'} |"
    titles = {**{name: SUITES[name].title for name in names}, "pabench": "pabench"}
    for name, killed in found["killed"].items():
        yield f"{titles[name]}: {killed} of {found['faults']} killed"
