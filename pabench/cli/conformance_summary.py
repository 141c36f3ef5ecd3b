"""What ``pabench conformance`` prints at its end: the matrix of several subjects, and what was not right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pabench.cli.text_table import text_table

if TYPE_CHECKING:
    from pabench.activities.conformance.results import CheckResult
    from pabench.activities.conformance.subject_facts import SubjectFacts

SHOWN_FINDINGS = 5
"""Findings of a failed check that are printed; the report and ``--json`` have all."""
WORDS = {
    "passed": "pass",
    "deviates": "known",
    "failed": "FAIL",
    "crashed": "CRASH",
    "unsupported": "-",
    "not-run": "?",
}


def summary_lines(
    results: Sequence[CheckResult], counts: Mapping[str, int], subjects: Sequence[SubjectFacts]
) -> Iterator[str]:
    """Yield the matrix where there are several subjects, then what is not right, then the totals."""
    for subject in subjects:
        if subject.version is not None:
            how = f", {subject.mode}" if subject.mode else ""
            yield f"{subject.name}: {subject.package} {subject.version}{how}"
    names = list(dict.fromkeys(result.subject for result in results))
    if len(names) > 1:
        yield from _matrix(results, names)
    yield from _known(results)
    for result in results:
        if result.status in ("failed", "crashed"):
            yield f"{result.status.upper()} {result.subject} {result.check}: {result.reason}"
            for finding in result.findings[1:SHOWN_FINDINGS]:
                yield f"  also: {finding['said']}"
            if result.failure:
                yield f"  again: {result.failure.replay}"
    yield from _unsupported(results)
    for result in results:
        if result.operations and result.status in ("passed", "deviates"):
            did = f"{result.cases} histories of {result.operations / result.cases:.0f} operations"
            yield f"{result.subject} {result.check}: {did}"
    numbers = ", ".join(f"{counts[name]} {name}" for name in ("passed", "failed", "crashed", "unsupported"))
    numbers += f", {counts['deviates']} with known deviations alone" if counts["deviates"] else ""
    numbers += f", {counts['not_run']} not run" if counts["not_run"] else ""
    yield f"{counts['cases']} generated cases, {counts['checks']} checks: {numbers}"


def _matrix(results: Sequence[CheckResult], names: Sequence[str]) -> Iterator[str]:
    """Checks down, subjects across; allocators and backends share no check, so each has its own."""
    for kind in dict.fromkeys(result.subject_kind for result in results):
        found = {(r.check, r.subject): WORDS[r.status] for r in results if r.subject_kind == kind}
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


def _known(results: Sequence[CheckResult]) -> Iterator[str]:
    """A line for each known deviation of a subject, with the checks that met it."""
    met: dict[tuple[str, str], list[str]] = {}
    reasons: dict[tuple[str, str], str] = {}
    for result in results:
        for known in result.deviations:
            key = (result.subject, str(known["name"]))
            met.setdefault(key, []).append(result.check)
            reasons[key] = str(known["reason"])
    for (subject, name), checks in met.items():
        yield f"KNOWN {subject} {', '.join(checks)}: {name}: {reasons[subject, name]}"


def _unsupported(results: Sequence[CheckResult]) -> Iterator[str]:
    """A line for each subject and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.status == "unsupported":
            groups.setdefault((result.subject, result.reason or "no reason given"), []).append(result.check)
    for (subject, reason), checks in groups.items():
        which = checks[0] if len(checks) == 1 else f"{len(checks)} checks"
        yield f"UNSUPPORTED {subject}, {which}: {reason}"
