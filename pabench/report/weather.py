# SPDX-License-Identifier: Apache-2.0
"""The weather page: other projects' kernels and allocators by version and clause, and what has changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pabench import __version__
from pabench.checks.ledger import shipped_ledger
from pabench.checks.specification import CLAUSES
from pabench.checks.summary import summaries
from pabench.errors import InvalidCase
from pabench.report.templates import template
from pabench.run.read import Run
from pabench.subjects.peers.package import release

SCHEMA = 1
STATES = {"kept": "kept", "deviating": "known", "broken": "BROKEN", "open": ""}
"""State of a clause to its word in a cell; ``known`` is a deviation that the ledger has."""


PEERLESS = re.compile(r" in '[^']*'(?= cannot be imported: )|(?<= is not installed)(?=: )")
"""Marks a reason that says that a package is absent or of no use; what it matches, a folder, is left out."""


class Row(NamedTuple):
    """A subject in a version: the state of each clause."""

    subject: str
    kind: str
    version: str
    mode: str
    states: Mapping[str, str]

    @property
    def key(self) -> str:
        """What names the subject, whatever its version."""
        return f"{self.subject} {self.mode}".strip()


def weather_rows(runs: Sequence[Run]) -> list[Row]:
    """Return a row for each subject of another project in the runs, in the order of their names."""
    rows = []
    for run in runs:
        if run.kind != "conformance":
            continue
        about = {line["subject"]: line for line in run.lines if line.get("version")}
        for summary in summaries([line for line in run.lines if line["subject"] in about]):
            line = about[summary.subject]
            states = {
                clause: state
                for state in ("kept", "deviating", "broken")
                for clause in getattr(summary, state)
            }
            # a question is about many clauses, the ledger says which of them a deviation breaks
            named = _clauses_of(run.lines, summary.subject, summary.subject_kind)
            states |= dict.fromkeys(summary.deviating, "kept")
            states |= {clause: "deviating" for clause in named if states.get(clause) != "broken"}
            rows.append(
                Row(summary.subject, summary.subject_kind, line["version"], line.get("mode") or "", states)
            )
    return sorted(rows, key=lambda row: (row.kind, row.key, release(row.version)))


def unjudged(runs: Sequence[Run]) -> list[str]:
    """Return what of other projects was not judged, and why, a line each: subjects, or the end of a run."""
    found: dict[tuple[str, str], str] = {}
    for run in runs:
        if run.kind != "conformance":
            continue
        judged = {line["subject"] for line in run.lines if line.get("version")}
        if run.record.get("not_run"):
            who = ", ".join(sorted(judged))
            found["", who] = f"{run.record['not_run']} checks of {who}: the budget was spent"
        for line in run.lines:
            if line["subject"] not in judged and PEERLESS.search(str(line.get("reason"))):
                why = PEERLESS.sub("", str(line["reason"])).partition(";")[0].partition(": pip ")[0]
                found.setdefault((line["subject"], why), f"{line['subject']}: {why}")
    return sorted(found.values())


def _clauses_of(lines: Sequence[Mapping[str, Any]], subject: str, kind: str) -> set[str]:
    """The clauses of the known deviations that a subject showed."""
    met = {
        found.get("name")
        for line in lines
        if line["subject"] == subject
        for found in line.get("deviations") or ()
    }
    return {entry.clause for entry in shipped_ledger(kind) if entry.adapter == subject and entry.name in met}


def weather_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the page as JSON values: what the next page is compared with."""
    return {"schema": SCHEMA, "rows": [row._asdict() for row in rows]}


def rows_of(data: Any, where: str) -> list[Row]:
    """Read ``weather_json`` back; raises ``InvalidCase`` where it is something else."""
    try:
        if data["schema"] != SCHEMA:
            raise KeyError("schema")
        rows = [Row(**row) for row in data["rows"]]
        if not all(isinstance(state, str) for row in rows for state in row.states.values()):
            raise TypeError("states")
    except (KeyError, TypeError, AttributeError):
        raise InvalidCase(where, data, f"must be the JSON of a weather page, schema {SCHEMA}") from None
    return rows


def changes(rows: Sequence[Row], before: Sequence[Row]) -> Iterator[str]:
    """Yield what differs from an earlier page, a line each.

    A row is compared with the one of its own version, else with the newest version that was there.
    """
    same = {(row.key, row.version): row for row in before}
    latest = {row.key: row for row in sorted(before, key=lambda row: release(row.version))}
    gone = dict(same)
    for row in rows:
        was = same.get((row.key, row.version)) or latest.get(row.key)
        if was is None:
            yield f"{row.key} {row.version}: new on this page"
            continue
        gone.pop((row.key, was.version), None)
        version = row.version if row.version == was.version else f"{was.version} to {row.version}"
        for clause in CLAUSES:
            now, then = row.states.get(clause, "open"), was.states.get(clause, "open")
            if now != then:
                yield f"{row.key} {version}: {clause} {then} became {now}"
        if row.version != was.version and row.states == was.states:
            yield f"{row.key} {version}: nothing else changed"
    for key, version in gone:
        yield f"{key} {version}: no longer on this page"


def weather_html(
    rows: Sequence[Row], changed: Sequence[str], *, compared: bool, absent: Sequence[str] = ()
) -> str:
    """Return the page, without a script; the same rows give the same bytes."""
    tables = [
        (kind, [row for row in rows if row.kind == kind]) for kind in dict.fromkeys(row.kind for row in rows)
    ]
    return template("weather.html.j2").render(
        tables=[
            (kind, found, [c for c in CLAUSES if any(c in row.states for row in found)])
            for kind, found in tables
        ],
        words=STATES,
        tested={clause: f"tested by {', '.join(checks)}" for clause, checks in CLAUSES.items()},
        changed=changed,
        compared=compared,
        absent=absent,
        version=__version__,
    )
