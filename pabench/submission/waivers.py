# SPDX-License-Identifier: Apache-2.0
"""Waivers: failures that a submission asks to have overlooked, each with a reason, a link and a last day."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlparse

from pabench.checks.summary import BAD, Line
from pabench.errors import InvalidCase, UsageError
from pabench.tables import check_fields

FIELDS = {"check", "reason", "url", "until"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """One entry, ``[[waiver]]`` of the file.

    Attributes:
        check: glob over ids of questions; brackets stand for themselves.
        reason: why the failure does not count.
        url: where it is discussed.
        until: the last day of the waiver.
    """

    check: str
    reason: str
    url: str
    until: date

    def fits(self, check: str) -> bool:
        """Whether it is about a question."""
        return fnmatchcase(check, self.check.replace("[", "[[]"))


def waivers_of(entries: Iterable[Any], where: str) -> tuple[Waiver, ...]:
    """Return the waivers of a file's entries; raises ``InvalidCase`` naming entry, field and rule."""
    return tuple(_waiver(entry, f"{where}: waiver {place}") for place, entry in enumerate(entries, 1))


def expired(waivers: Sequence[Waiver], today: date) -> list[Waiver]:
    """Return those whose last day is over."""
    return [waiver for waiver in waivers if waiver.until < today]


def waived(
    lines: Sequence[Line], waivers: Sequence[Waiver]
) -> tuple[list[Line], dict[tuple[str, str], Waiver]]:
    """Return the results with waived failures as passed ones, and by subject and question what waived it.

    Raises:
        UsageError: a waiver fits no failure of the run.
    """
    found: dict[tuple[str, str], Waiver] = {}
    told: list[Line] = []
    for line in lines:
        waiver = next((one for one in waivers if one.fits(str(line["check"]))), None)
        if waiver is not None and line["status"] in BAD:
            found[str(line["subject"]), str(line["check"])] = waiver
            line = {**line, "status": "passed", "cases": max(1, int(line.get("cases") or 0))}
        told.append(line)
    for waiver in waivers:
        if waiver not in found.values():
            raise UsageError(f"waiver of {waiver.check!r}: no such question failed in this run")
    return told, found


def _waiver(entry: Any, where: str) -> Waiver:
    try:
        check_fields(entry, FIELDS, FIELDS)
    except InvalidCase as error:
        raise InvalidCase(f"{where}: {error.field}", error.value, error.rule) from None
    for name in ("check", "reason", "url"):
        if not isinstance(entry[name], str) or not entry[name].strip():
            raise InvalidCase(f"{where}: {name}", entry[name], "must be text")
    address = urlparse(entry["url"])
    if address.scheme not in ("http", "https") or not address.netloc:
        raise InvalidCase(f"{where}: url", entry["url"], "must be a link, https://...")
    until = entry["until"]
    if isinstance(until, str):
        try:
            until = date.fromisoformat(until)
        except ValueError:
            raise InvalidCase(f"{where}: until", until, "must be a date, 2027-01-31") from None
    if not isinstance(until, date) or isinstance(until, datetime):
        raise InvalidCase(f"{where}: until", until, "must be a date, 2027-01-31")
    return Waiver(check=entry["check"], reason=entry["reason"], url=entry["url"], until=until)
