"""The ledger of known deviations: what a package of another project does that the specification forbids.

An entry holds for an adapter and a range of versions, names the verdict it stands for, and has a saved
history that shows it.  A run plays that history first: an entry that no longer happens fails the run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabench.allocators.registry import ALLOCATORS
from pabench.conformance.allocator_checks import ALLOCATOR_CHECKS
from pabench.conformance.outcome import Outcome
from pabench.errors import InvalidCase, UnknownName
from pabench.peers.peer import release
from pabench.problem.checks import one_of
from pabench.resources import resource_dir
from pabench.tables import check_fields, read_tables

LEDGER_FILE = "allocators.toml"
KINDS = ("defect", "convention")
TEXTS = ("name", "adapter", "kind", "first", "last", "says", "reason", "promise", "upstream", "case")
FIELDS = {*TEXTS, "checks"}
VERSION = re.compile(r"\d+(\.\d+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """A known deviation.

    Attributes:
        name: of the deviation, unique for its adapter.
        adapter: allocator by name.
        kind: ``defect``, or ``convention`` where the package never promised otherwise.
        first, last: versions of the package that are known to do it.
        checks: ids of the checks whose verdict it may be.
        says: regular expression that is found in the text of the verdict, and in no other verdict.
        reason: what happens, in a sentence.
        promise: what the package says about it.
        upstream: the thread where it is discussed, or empty.
        case: folder of the saved history, beside the ledger.
        folder: the same, as a path.
    """

    name: str
    adapter: str
    kind: str
    first: str
    last: str
    checks: tuple[str, ...]
    says: str
    reason: str
    promise: str
    upstream: str
    case: str
    folder: Path

    def holds_for(self, adapter: str, version: str) -> bool:
        """Whether it is about this package; a patch or pre-release counts as the numbers it starts with."""
        return adapter == self.adapter and release(self.first) <= release(version) <= release(self.last)

    def explains(self, check: str, outcome: Outcome) -> bool:
        """Whether a verdict is this deviation."""
        return not outcome.passed and check in self.checks and re.search(self.says, outcome.text) is not None


def read_ledger(file: Path) -> tuple[Deviation, ...]:
    """Read a ledger.

    Raises:
        UsageError: the file cannot be read, or has no or other tables than ``[[deviation]]``.
        InvalidCase: names the entry, the field and the rule.
        UnknownName: an entry names no allocator.
    """
    entries = read_tables(file, what="ledger", entry="deviation")
    found = tuple(_deviation(f"deviation {at}", entry, file.parent) for at, entry in enumerate(entries, 1))
    names = [(entry.adapter, entry.name) for entry in found]
    for twice in {name for name in names if names.count(name) > 1}:
        raise InvalidCase("name", twice[1], f"must be there once for {twice[0]}")
    return found


def shipped_ledger() -> tuple[Deviation, ...]:
    """Return the ledger of ``suites/findings``."""
    return read_ledger(resource_dir("suites") / "findings" / LEDGER_FILE)


def known_deviations(adapter: str, version: str | None) -> tuple[Deviation, ...]:
    """Return what is known of an adapter whose package has this version; nothing of our own allocators."""
    if version is None:
        return ()
    return tuple(entry for entry in shipped_ledger() if entry.holds_for(adapter, version))


def _deviation(where: str, entry: Any, folder: Path) -> Deviation:
    try:
        check_fields(entry, FIELDS, FIELDS)
    except InvalidCase as error:
        raise InvalidCase(f"{where}: {error.field}", error.value, error.rule) from None
    for field in TEXTS:
        if not isinstance(entry[field], str) or (not entry[field] and field != "upstream"):
            raise InvalidCase(f"{where}: {field}", entry[field], "must be a text")
    if entry["adapter"] not in ALLOCATORS:
        raise UnknownName("allocator", entry["adapter"], ALLOCATORS)
    one_of(f"{where}: kind", entry["kind"], KINDS)
    for field in ("first", "last"):
        if not VERSION.fullmatch(entry[field]):
            raise InvalidCase(f"{where}: {field}", entry[field], "must be numbers and points")
    if release(entry["first"]) > release(entry["last"]):
        raise InvalidCase(f"{where}: last", entry["last"], f"must not be before {entry['first']}")
    if not isinstance(entry["checks"], list) or not entry["checks"]:
        raise InvalidCase(f"{where}: checks", entry["checks"], "must be a list of checks")
    for check in entry["checks"]:
        one_of(f"{where}: checks", check, tuple(ALLOCATOR_CHECKS))
    try:
        re.compile(entry["says"])
    except re.error as error:
        rule = f"must be a regular expression: {error}"
        raise InvalidCase(f"{where}: says", entry["says"], rule) from None
    if not re.fullmatch(r"[a-z0-9-]+", entry["case"]) or not (folder / entry["case"]).is_dir():
        raise InvalidCase(f"{where}: case", entry["case"], "must be a folder beside the ledger")
    texts = {field: entry[field] for field in TEXTS}
    return Deviation(**texts, checks=tuple(entry["checks"]), folder=folder / entry["case"])
