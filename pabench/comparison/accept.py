# SPDX-License-Identifier: Apache-2.0
"""Regressions that are let pass: a TOML file of entries, each with its reason and its last day."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pabench.comparison.delta import REGRESSIONS, Delta
from pabench.errors import UsageError, reason
from pabench.text import shown, shown_path

NEEDED = ("item", "reason", "until")
FIELDS = (*NEEDED, "figure")
MAX_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """One entry, ``[[accept]]`` of the file.

    Attributes:
        item: glob over ids and labels.
        figure: glob over figures.
        reason: why it is let pass.
        until: the last day on which it is.
    """

    item: str
    figure: str
    reason: str
    until: date

    def fits(self, delta: Delta) -> bool:
        """Whether the entry speaks of this line."""
        named = any(fnmatchcase(name, self.item) for name in (delta.id, delta.label))
        return named and fnmatchcase(delta.figure, self.figure)


def read_accepted(path: Path) -> tuple[Accepted, ...]:
    """Read the file.

    Raises:
        UsageError: it cannot be read, is no TOML, or or an entry has fields that it must not have.
    """
    where = shown_path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"--accept {where}: larger than {MAX_BYTES} bytes")
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--accept {where}: cannot be read: {reason(error)}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"--accept {where}: not TOML: {error}") from error
    entries = told.pop("accept", [])
    if told or not isinstance(entries, list):
        raise UsageError(f"--accept {where}: must hold [[accept]] entries and nothing else")
    return tuple(_entry(entry, f"--accept {where}: entry {place}") for place, entry in enumerate(entries, 1))


def with_accepted(
    deltas: Sequence[Delta], entries: Sequence[Accepted], today: date
) -> tuple[tuple[Delta, ...], tuple[str, ...]]:
    """Return the lines with what is accepted, and notes on entries that are over or speak of nothing."""
    used: set[Accepted] = set()
    found = []
    for delta in deltas:
        entry = None
        if delta.change in REGRESSIONS:
            entry = next((one for one in entries if one.fits(delta)), None)
        if entry is not None:
            used.add(entry)
            if entry.until >= today:
                delta = replace(delta, accepted=f"{entry.reason} (until {entry.until})")
        found.append(delta)
    notes = [
        f"accepted no longer, since {one.until}: {one.item} {one.figure} ({one.reason})"
        for one in entries
        if one.until < today
    ]
    notes += [
        f"nothing to accept: {one.item} {one.figure} is no regression of this comparison"
        for one in entries
        if one not in used
    ]
    return tuple(found), tuple(notes)


def _entry(entry: Any, where: str) -> Accepted:
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: must be a table")
    for name in NEEDED:
        if name not in entry:
            raise UsageError(f"{where}: {name} is missing (needs {', '.join(NEEDED)})")
    for name, value in entry.items():
        if name not in FIELDS:
            raise UsageError(f"{where}: unknown field {shown(name)} (known: {', '.join(FIELDS)})")
        if name != "until" and not (isinstance(value, str) and value.strip()):
            raise UsageError(f"{where}: {name} = {shown(value)}: must be text")
    until = entry["until"]
    if isinstance(until, datetime) or not isinstance(until, date):
        raise UsageError(
            f"{where}: until = {shown(until)}: must be a date such as 2027-01-31, without quotes"
        )
    return Accepted(item=entry["item"], figure=entry.get("figure", "*"), reason=entry["reason"], until=until)
