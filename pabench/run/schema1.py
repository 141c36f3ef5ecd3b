# SPDX-License-Identifier: Apache-2.0
"""Journal lines of schema 1, which each activity wrote in a form of its own, as records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pabench.errors import UsageError
from pabench.run.figures import figures_of
from pabench.run.kinds import KINDS
from pabench.run.record import RENAMED_DETAILS, Failure, Record, Status, Subject
from pabench.run.rules import COUNT, FIGURES, Rule, check_fields, words
from pabench.text import shown

ACTIVITIES = {
    "cell": "sweep",
    "check": "conformance",
    "serving": "serving",
    "stress": "stress",
    "model": "model",
}
"""Kind of line to the activity that wrote it."""
STATES: dict[str, dict[str, Status]] = {
    "cell": {"ok": Status.PASSED},
    "check": {"passed": Status.PASSED, "deviates": Status.KNOWN_FAILURE, "not-run": Status.INTERRUPTED},
    "serving": {"ok": Status.PASSED, "interrupted": Status.INTERRUPTED},
    "stress": {"ok": Status.PASSED, "timeout": Status.HUNG},
    "model": {"ok": Status.PASSED, "inconclusive": Status.INCONCLUSIVE},
}
SAME = {str(one): one for one in (Status.FAILED, Status.CRASHED, Status.UNSUPPORTED)}
"""Words that have not changed; every kind of line knew them."""
COUNTED = {"check": ("cases", "operations", "max_ratio")}
"""Figures that had no provenance in their line; all were counted."""
RENAMED = {"serving": {"skipped": "skip_reasons"}, "check": RENAMED_DETAILS}
"""Fields by what they are called now."""
OUTSIDE = (
    "kind",
    "id",
    "status",
    "reason",
    "failure",
    "provenance",
    "device",
    "version",
    "mode",
    "duration_s",
    "figures",
)
LABELS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "cell": lambda line: (
        f"page {line['page_size']}  {line['lengths']}  batch {line['batch']}  {line['backend']}"
    ),
    "check": lambda line: f"{line['subject']} {line['check']}",
    "serving": lambda line: f"{line['allocator']} under {line['scheduler']}, page size {line['page_size']}",
    "stress": lambda line: f"{line['subject']} {line['check']}",
    "model": lambda line: f"{line['model']} through {line['subject']}, page size {line['page_size']}",
}


def record_of_1(data: Mapping[str, Any], where: str) -> Record:
    """Return the record of a line of schema 1.

    Raises:
        UsageError: the line breaks the schema; ``where`` opens the message.
    """
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in ACTIVITIES:
        raise UsageError(f"{where}: kind = {shown(kind)}: must be one of {', '.join(ACTIVITIES)}")
    # of servers the figure of this name lay inside of another object
    renamed = RENAMED.get(kind, {})
    data = {renamed.get(name, name): value for name, value in data.items()}
    states = STATES[kind] | SAME
    status: Rule = words(tuple(states))
    required, optional, (inner, rules) = KINDS[ACTIVITIES[kind]]
    names = {
        name: rule for name, rule in required.items() if name != "subject" or kind not in ("cell", "serving")
    }
    check_fields(data, {**names, "status": status}, optional, where)
    if isinstance(data.get(inner), dict):
        check_fields(data[inner], {}, rules, where, prefix=f"{inner}.")
    if kind == "serving" and data["status"] == "ok":
        check_fields(data, {"figures": FIGURES}, {}, where)
        check_fields(data["figures"], {"served": COUNT}, {}, where, prefix="figures.")
    figures = dict.fromkeys(COUNTED.get(kind, ()), "counted") | dict(data.get("provenance") or {})
    values = {name: data.get(name) for name in figures}
    if kind == "serving":
        # they lie in an object of their own, which is null where nothing was served
        values = data.get("figures") or {}
        figures = {name: word for name, word in figures.items() if name in values}
    failure = data.get("failure")
    return Record(
        kind=ACTIVITIES[kind],
        id=data["id"],
        label=LABELS[kind](data),
        subject=_subject(kind, data),
        device=data.get("device") or "",
        status=states[data["status"]],
        reason=data.get("reason"),
        failure=_failure(kind, data) if failure is None else Failure(**_texts(failure)),
        figures=figures_of(values, figures),
        details={name: value for name, value in data.items() if name not in (*OUTSIDE, *figures, "subject")},
        duration_s=data.get("duration_s"),
    )


def _subject(kind: str, data: Mapping[str, Any]) -> Subject:
    if kind == "cell":
        return Subject(kind="backend", name=data["backend"])
    if kind == "serving":
        return Subject(kind="allocator", name=data["allocator"])
    kinds = {"stress": "allocator", "model": "backend"}
    return Subject(
        kind=kinds.get(kind) or data.get("subject_kind") or "backend",
        name=data["subject"],
        version=data.get("version"),
        mode=data.get("mode"),
    )


def _failure(kind: str, data: Mapping[str, Any]) -> Failure | None:
    """Of a cell the way to its case stood in its check."""
    check = data.get("check")
    if kind != "cell" or not isinstance(check, dict) or not check.get("path"):
        return None
    return Failure(**_texts({**check, "text": check.get("text") or data.get("reason")}))


def _texts(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(found.get(name) or "") for name in ("case_id", "text", "path", "replay")}
