# SPDX-License-Identifier: Apache-2.0
"""Known deviations: what a ledger names of a subject, seen again in this run."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.report.source import Source
from pabench.report.words import whole


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviationRow:
    """One deviation of one subject, over all checks that met it."""

    subject: str
    name: str
    kind: str
    reason: str
    text: str
    checks: str
    cases: str
    case: str


def build_deviations(source: Source) -> tuple[DeviationRow, ...]:
    """Return a row for each subject and name, in the order of the journals."""
    met: dict[tuple[str, str], list[tuple[str, dict[str, object]]]] = {}
    for line in source.checks:
        for one in line.data.get("deviations") or ():
            if isinstance(one, dict):
                key = (str(line.data["subject"]), str(one.get("name")))
                met.setdefault(key, []).append((str(line.data["check"]), one))
    rows = []
    for (subject, name), seen in met.items():
        first = seen[0][1]
        counts = [one.get("cases") for _, one in seen]
        rows.append(
            DeviationRow(
                subject=subject,
                name=name,
                kind=str(first.get("kind")),
                reason=str(first.get("reason")),
                text=str(first.get("text")),
                checks=", ".join(dict.fromkeys(check for check, _ in seen)),
                cases=whole(sum(count for count in counts if isinstance(count, int))),
                case=str(first.get("case")),
            )
        )
    return tuple(rows)
