# SPDX-License-Identifier: Apache-2.0
"""What ``pabench conformance`` says at its end: what was not right, summaries, the matrix of subjects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pabench.checks.faults import faults_of
from pabench.checks.summary import ConformanceSummary, clause_lines, summaries
from pabench.cli.text_table import text_table
from pabench.run.record import JUDGED, Record, Status
from pabench.text import one_line, plural

SHOWN_FINDINGS = 5
"""Findings of a failed check that are printed; the report and ``--json`` have all."""
SHOWN_CHECKS = 6
SHOWN_REASONS = 3
WORDS = {
    Status.PASSED: "pass",
    Status.KNOWN_FAILURE: "known",
    Status.FAILED: "FAIL",
    Status.CRASHED: "CRASH",
    Status.HUNG: "HUNG",
    Status.UNSUPPORTED: "-",
    Status.INCONCLUSIVE: "?",
    Status.INTERRUPTED: "?",
}
COUNTS = {
    Status.PASSED: "passed",
    Status.FAILED: "failed",
    Status.CRASHED: "crashed",
    Status.HUNG: "hung",
    Status.UNSUPPORTED: "unsupported",
    Status.KNOWN_FAILURE: "with known deviations alone",
    Status.INTERRUPTED: "not run",
}
ALWAYS = (Status.PASSED, Status.FAILED, Status.CRASHED, Status.UNSUPPORTED)
"""Counted even where there are none."""


def summary_lines(
    records: Sequence[Record], subjects: Sequence[Mapping[str, Any]], *, whole: bool
) -> Iterator[str]:
    """Yield what is not right, summaries, the matrix where there are several subjects, and the totals.

    Args:
        records: what came of the questions.
        subjects: facts of each subject.
        whole: the whole suite was asked, so that clauses and profiles can be said to be kept.
    """
    yield from _broken(records)
    yield from _known(records)
    if whole:
        yield from clause_lines(summaries_of(records))
    for subject in subjects:
        if subject["version"] is not None:
            how = f", {subject['mode']}" if subject["mode"] else ""
            yield f"{subject['name']}: {subject['package']} {subject['version']}{how}"
    names = list(dict.fromkeys(record.subject.name for record in records))
    if len(names) > 1:
        yield from _matrix(records, names)
    yield from _unsupported(records)
    for record in records:
        cases, operations = _number(record, "cases"), _number(record, "operations")
        if operations and record.status in JUDGED:
            yield f"{record.label}: {cases} histories of {operations / cases:.0f} operations"
    counts = {status: sum(record.status == status for record in records) for status in COUNTS}
    said = [f"{count} {COUNTS[status]}" for status, count in counts.items() if count or status in ALWAYS]
    cases = sum(_number(record, "cases") for record in records)
    size = f"{plural(cases, 'generated case')}, {plural(len(records), 'check')}"
    yield f"{size}: {', '.join(said)}"


def summaries_of(records: Sequence[Record]) -> list[ConformanceSummary]:
    """Return where each subject stands."""
    return list(summaries([record.flat() for record in records]))


def json_fields(records: Sequence[Record]) -> dict[str, Any]:
    """Return what the JSON file holds beside the records: totals, summaries, and flat results."""
    return {
        "cases": sum(_number(record, "cases") for record in records),
        "checks": len(records),
        **{str(one).replace("-", "_"): sum(record.status == one for record in records) for one in Status},
        "subjects": [subject.to_json() for subject in summaries_of(records)],
        "results": [record.flat() for record in records],
    }


def properties(records: Sequence[Record]) -> dict[str, str]:
    """Return properties of the JUnit suite: clauses, profiles and badges of each subject."""
    found = {}
    for subject in summaries_of(records):
        name = f"{subject.device}.{subject.subject}"
        found[f"{name}.clauses"] = f"{len(subject.kept)} of {subject.clauses}"
        for kind, claims in (("profiles", subject.profiles), ("badges", subject.badges)):
            found[f"{name}.{kind}"] = ", ".join(claim.name for claim in claims if claim.held)
    return found


def _number(record: Record, name: str) -> int:
    figure = record.figures.get(name)
    return int(figure.value or 0) if figure is not None else 0


def _matrix(records: Sequence[Record], names: Sequence[str]) -> Iterator[str]:
    """Checks down, subjects across; allocators and backends share no check, so each has its own."""
    for kind in dict.fromkeys(record.subject.kind for record in records):
        found = {
            (record.details["check"], record.subject.name): WORDS[record.status]
            for record in records
            if record.subject.kind == kind
        }
        mine = [name for name in names if any(subject == name for _, subject in found)]
        if len(mine) < 2:
            continue
        rows = [
            {"check": check, **{name: found.get((check, name), "") for name in mine}}
            for check in dict.fromkeys(check for check, _ in found)
        ]
        yield from (text_table(rows).splitlines())
        meant = [f"{word} {status}" for status, word in WORDS.items() if word in found.values()]
        yield f"({', '.join(meant)})"


def _broken(records: Sequence[Record]) -> Iterator[str]:
    """What is wrong: one verdict a fault, its cause first, however many checks it fails."""
    by_id = {record.id: record for record in records}
    for fault in faults_of([record.flat() for record in records]):
        record = by_id[str(fault.first["id"])]
        status = str(record.status).upper()
        if len(fault.checks) == 1:
            yield f"{status} {record.label}: {one_line(record.reason or '')}"
        else:
            yield f"{status} {fault.words}: {len(fault.checks)} checks of {fault.subject}"
            if fault.place:
                where, _, numbers = fault.place.partition(": ")
                yield f"  first: {fault.first['check']}, {where}"
                yield f"    {numbers}"
            more = len(fault.checks) - SHOWN_CHECKS
            yield f"  in: {', '.join(fault.checks[:SHOWN_CHECKS])}{f' and {more} more' if more > 0 else ''}"
        for finding in record.details["findings"][1:SHOWN_FINDINGS]:
            yield f"  also: {one_line(finding['said'])}"
        if record.failure is not None:
            yield f"  again: {record.failure.replay}"


def _known(records: Sequence[Record]) -> Iterator[str]:
    """A line for each known deviation of a subject, with the checks that met it."""
    met: dict[tuple[str, str], list[str]] = {}
    reasons: dict[tuple[str, str], str] = {}
    for record in records:
        for known in record.details["deviations"]:
            key = (record.subject.name, str(known["name"]))
            met.setdefault(key, []).append(record.details["check"])
            reasons[key] = str(known["reason"])
    for (subject, name), checks in met.items():
        yield f"KNOWN {subject} {', '.join(checks)}: {name}: {one_line(reasons[subject, name])}"


def _unsupported(records: Sequence[Record]) -> Iterator[str]:
    """One line for each subject, its commonest reasons alone."""
    groups: dict[str, Counter[str]] = {}
    for record in records:
        if record.status == Status.UNSUPPORTED:
            reason = one_line(record.reason or "no reason given")
            groups.setdefault(record.subject.name, Counter())[reason] += 1
    for subject, reasons in groups.items():
        if len(reasons) == 1:
            yield f"UNSUPPORTED {subject}, {plural(reasons.total(), 'check')}: {next(iter(reasons))}"
            continue
        said = [
            f"{reason.removeprefix(f'{subject} offers ')} ({count})"
            for reason, count in reasons.most_common(SHOWN_REASONS)
        ]
        more = len(reasons) - len(said)
        others = f", and {more} more reasons in the report" if more > 0 else ""
        yield f"UNSUPPORTED {subject}, {plural(reasons.total(), 'check')}: {', '.join(said)}{others}"
