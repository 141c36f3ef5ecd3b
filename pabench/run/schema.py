# SPDX-License-Identifier: Apache-2.0
"""The shape of ``run.json`` and of a journal line, schema 2, and the way in for schema 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pabench.errors import UsageError
from pabench.run.kinds import KINDS
from pabench.run.record import Provenance, Record, Status, record_of
from pabench.run.rules import (
    CODE,
    COUNT,
    NAME,
    NUMBER,
    OBJECT,
    TEXT,
    VALUE,
    WHEN,
    Rule,
    check_fields,
    has,
    list_of,
    words,
)
from pabench.run.schema1 import record_of_1
from pabench.text import shown

SCHEMA = 2
READABLE = (1, SCHEMA)
RUN_STATES = ("running", "finished", "interrupted")

RUN_REQUIRED: dict[str, Rule] = {
    "kind": NAME,
    "status": words(RUN_STATES),
    "command": TEXT,
    "started": WHEN,
    "provenance": OBJECT,
    "config": OBJECT,
}
RUN_OPTIONAL: dict[str, Rule] = {"exit_code": CODE, "finished": WHEN, "not_run": COUNT, "hardware": OBJECT}

LINE_REQUIRED: dict[str, Rule] = {
    **dict.fromkeys(("kind", "id", "label"), NAME),
    "subject": OBJECT,
    "device": TEXT,
    "status": words(tuple(str(status) for status in Status)),
}
LINE_OPTIONAL: dict[str, Rule] = {
    "reason": TEXT,
    "failure": OBJECT,
    "figures": OBJECT,
    "details": OBJECT,
    "duration_s": NUMBER,
}
SUBJECT_REQUIRED: dict[str, Rule] = {"kind": NAME, "name": NAME}
SUBJECT_OPTIONAL: dict[str, Rule] = {"version": TEXT, "mode": TEXT}
SUBJECTS: Rule = ("a list of subjects", list_of(has(**{name: NAME[1] for name in SUBJECT_REQUIRED})))
FAILURE: dict[str, Rule] = dict.fromkeys(("case_id", "text", "path", "replay"), TEXT)
FIGURE: dict[str, Rule] = {
    "value": VALUE,
    "unit": TEXT,
    "provenance": words(tuple(str(word) for word in Provenance)),
}


def validate_run(data: Any, where: str) -> dict[str, Any]:
    """Return ``data`` when it is a ``run.json`` of a readable schema; ``where`` opens the error's message."""
    if not isinstance(data, dict):
        raise UsageError(f"{where}: must be a JSON object")
    schema = data.get("schema")
    if schema not in READABLE or isinstance(schema, bool):
        known = " and ".join(map(str, READABLE))
        newer = isinstance(schema, int) and schema > SCHEMA
        hint = "a newer pabench has written it: read it with that" if newer else None
        raise UsageError(f"{where}: schema = {shown(schema)}: this version reads schema {known}", hint=hint)
    check_fields(data, RUN_REQUIRED, RUN_OPTIONAL, where)
    check_fields(data["provenance"], {}, {"subjects": SUBJECTS}, where, prefix="provenance.")
    return data


def read_line(data: Any, where: str, *, schema: int = SCHEMA) -> Record:
    """Return the record of a journal line; ``where`` opens the message of the error."""
    if not isinstance(data, dict):
        raise UsageError(f"{where}: must be a JSON object")
    if schema == 1:
        return record_of_1(data, where)
    check_fields(data, LINE_REQUIRED, LINE_OPTIONAL, where)
    _exactly(data["subject"], SUBJECT_REQUIRED, SUBJECT_OPTIONAL, where, "subject.")
    if data.get("failure") is not None:
        _exactly(data["failure"], FAILURE, {}, where, "failure.")
    for name, figure in (data.get("figures") or {}).items():
        prefix = f"figures.{name}."
        if not isinstance(figure, dict):
            raise UsageError(
                f"{where}: figures.{name} = {shown(figure)}: must have value, unit and provenance"
            )
        check_fields(figure, FIGURE, {}, where, prefix=prefix)
    record = record_of(data)
    if record.kind in KINDS:
        required, optional, (inner, rules) = KINDS[record.kind]
        flat = record.flat()
        check_fields(flat, required, optional, where)
        if isinstance(flat.get(inner), dict):
            check_fields(flat[inner], {}, rules, where, prefix=f"{inner}.")
        if record.kind == "serving" and record.status == Status.PASSED:
            check_fields(flat, {"served": COUNT}, {}, where)
    return record


def _exactly(
    data: Mapping[str, Any], required: dict[str, Rule], optional: dict[str, Rule], where: str, prefix: str
) -> None:
    check_fields(data, required, optional, where, prefix=prefix)
    if unknown := sorted(set(data) - set(required) - set(optional)):
        raise UsageError(f"{where}: {prefix}{unknown[0]} is not a field of schema {SCHEMA}")
