# SPDX-License-Identifier: Apache-2.0
"""The ledgers of known deviations: what a package of another project does that the specification forbids.

An entry holds for an adapter and a range of versions, names the verdicts it stands for, and has a saved
case that shows it.  A run plays that case first: an entry that no longer happens fails the run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabench.checks.case_files import AnyCase
from pabench.checks.outcome import Outcome
from pabench.checks.registry import ALLOCATOR_CHECKS, CHECKS
from pabench.checks.specification import CLAUSES
from pabench.checks.traits import TRAITS
from pabench.errors import InvalidCase, UnknownName
from pabench.problem.checks import one_of
from pabench.resources import resource_dir
from pabench.subjects.allocators.table import ALLOCATORS
from pabench.subjects.backends.adapters.table import ADAPTERS
from pabench.subjects.peers.package import release
from pabench.tables import check_fields, read_tables

LEDGER_FILES = {"allocator": "allocators.toml", "backend": "backends.toml"}
"""Kind of subject to the file in ``suites/findings`` that holds its ledger."""
KINDS = ("defect", "convention")
TEXTS = ("name", "adapter", "kind", "first", "last", "clause", "reason", "promise", "upstream", "case")
OPTIONAL_TEXTS = ("says", "mode")
FIELDS = {*TEXTS, *OPTIONAL_TEXTS, "checks", "when"}
VERSION = re.compile(r"\d+(\.\d+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """A known deviation.

    Attributes:
        subject_kind: ``allocator`` or ``backend``.
        name: of the deviation, unique for its adapter.
        adapter: subject by name.
        kind: ``defect``, or ``convention`` where the package never promised otherwise.
        first, last: versions of the package that are known to do it.
        clause: of the specification, that it breaks.
        checks: ids of the checks whose verdict it may be; an id with a label in brackets means that use of
            the check alone.
        says: regular expression that is found in the text of the verdict, and in no other verdict; empty
            where ``when`` says it all.
        when: names of ``TRAITS`` that the case must all have.
        mode: of the backend, where it happens in one mode alone (``interpreted``, ...); empty for any.
        reason: what happens, in a sentence.
        promise: what the package says about it.
        upstream: the thread where it is discussed, or empty.
        case: folder of the saved case, beside the ledger.
        folder: the same, as a path.
    """

    subject_kind: str
    name: str
    adapter: str
    kind: str
    first: str
    last: str
    clause: str
    checks: tuple[str, ...]
    says: str
    when: tuple[str, ...]
    mode: str
    reason: str
    promise: str
    upstream: str
    case: str
    folder: Path

    def holds_for(self, adapter: str, version: str, mode: str | None = None) -> bool:
        """Whether it is about this package; a patch or pre-release counts as the numbers it starts with."""
        if adapter != self.adapter or (self.mode and mode != self.mode):
            return False
        return release(self.first) <= release(version) <= release(self.last)

    def explains(self, check: str, case: AnyCase, outcome: Outcome) -> bool:
        """Whether the verdict of ``check``, with or without its label, on ``case`` is this deviation."""
        if outcome.passed or not {check, check.split("[")[0]} & set(self.checks):
            return False
        return all(TRAITS[name](case) for name in self.when) and bool(re.search(self.says, outcome.text))


def read_ledger(file: Path, subject_kind: str) -> tuple[Deviation, ...]:
    """Read a ledger of subjects of one kind, ``allocator`` or ``backend``.

    Raises:
        UsageError: the file cannot be read, or has no or other tables than ``[[deviation]]``.
        InvalidCase: names the entry, the field and the rule.
        UnknownName: an entry names no such subject.
    """
    entries = read_tables(file, what="ledger", entry="deviation")
    found = tuple(
        _deviation(f"deviation {at}", entry, file.parent, subject_kind) for at, entry in enumerate(entries, 1)
    )
    names = [(entry.adapter, entry.name) for entry in found]
    for twice in {name for name in names if names.count(name) > 1}:
        raise InvalidCase("name", twice[1], f"must be there once for {twice[0]}")
    return found


def shipped_ledger(subject_kind: str) -> tuple[Deviation, ...]:
    """Return the ledger of ``suites/findings`` for subjects of one kind; empty where nothing is known."""
    file = resource_dir("suites") / "findings" / LEDGER_FILES[subject_kind]
    return read_ledger(file, subject_kind) if file.is_file() else ()


def known_deviations(
    subject_kind: str, adapter: str, version: str | None, mode: str | None = None
) -> tuple[Deviation, ...]:
    """Return what is known of an adapter whose package has this version; nothing of our own subjects."""
    if version is None:
        return ()
    return tuple(entry for entry in shipped_ledger(subject_kind) if entry.holds_for(adapter, version, mode))


def _deviation(where: str, entry: Any, folder: Path, subject_kind: str) -> Deviation:
    try:
        check_fields(entry, {*TEXTS, "checks"}, FIELDS)
    except InvalidCase as error:
        raise InvalidCase(f"{where}: {error.field}", error.value, error.rule) from None
    for field in (*TEXTS, *(name for name in OPTIONAL_TEXTS if name in entry)):
        if not isinstance(entry[field], str) or (not entry[field] and field != "upstream"):
            raise InvalidCase(f"{where}: {field}", entry[field], "must be a text")
    subjects, checks = (
        (ALLOCATORS.keys(), ALLOCATOR_CHECKS.keys())
        if subject_kind == "allocator"
        else (ADAPTERS.keys(), CHECKS.keys())
    )
    if entry["adapter"] not in subjects:
        raise UnknownName(subject_kind, entry["adapter"], subjects)
    one_of(f"{where}: kind", entry["kind"], KINDS)
    one_of(f"{where}: clause", entry["clause"], tuple(CLAUSES))
    for field in ("first", "last"):
        if not VERSION.fullmatch(entry[field]):
            raise InvalidCase(f"{where}: {field}", entry[field], "must be numbers and points")
    if release(entry["first"]) > release(entry["last"]):
        raise InvalidCase(f"{where}: last", entry["last"], f"must not be before {entry['first']}")
    for check in _list(where, entry, "checks"):
        one_of(f"{where}: checks", check.split("[")[0], tuple(checks))
    for trait in _list(where, entry, "when") if "when" in entry else ():
        one_of(f"{where}: when", trait, tuple(TRAITS))
    if not entry.keys() & {"says", "when"}:
        raise InvalidCase(f"{where}: says", None, "is missing, and so is when: one must tell its verdicts")
    try:
        re.compile(entry.get("says", ""))
    except re.error as error:
        rule = f"must be a regular expression: {error}"
        raise InvalidCase(f"{where}: says", entry["says"], rule) from None
    if not re.fullmatch(r"[a-z0-9-]+", entry["case"]) or not (folder / entry["case"]).is_dir():
        raise InvalidCase(f"{where}: case", entry["case"], "must be a folder beside the ledger")
    return Deviation(
        **{field: entry[field] for field in TEXTS},
        **{field: entry.get(field, "") for field in OPTIONAL_TEXTS},
        checks=tuple(entry["checks"]),
        when=tuple(entry.get("when", ())),
        subject_kind=subject_kind,
        folder=folder / entry["case"],
    )


def _list(where: str, entry: Any, field: str) -> list[str]:
    given = entry[field]
    if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
        raise InvalidCase(f"{where}: {field}", given, "must be a list of names")
    return given
