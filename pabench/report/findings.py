# SPDX-License-Identifier: Apache-2.0
"""Findings of a checked device as rows of a table; journals may come from anywhere, so nothing is trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pabench.report.words import DASH

MOST_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingRow:
    """One finding, each cell in words."""

    check: str
    text: str
    at: str
    memory: str
    other: str
    count: str


def finding_rows(findings: Any) -> tuple[FindingRow, ...]:
    """Return the rows of a journal line's ``findings``, the first ``MOST_ROWS`` of them."""
    rows = [_row(one) for one in findings or () if isinstance(one, dict)]
    return tuple(rows[:MOST_ROWS])


def _row(one: dict[str, Any]) -> FindingRow:
    buffer = one.get("buffer")
    return FindingRow(
        check=str(one.get("check", DASH)),
        text=str(one.get("text", DASH)),
        at=f"{one.get('kernel', DASH)}, {_party(one.get('at'))}",
        memory=f"{buffer}, byte {one.get('offset')}" if buffer else DASH,
        other=_party(one.get("other")),
        count=str(one.get("count", DASH)),
    )


def _party(party: Any) -> str:
    if not isinstance(party, dict):
        return DASH
    place = party.get("place")
    where = f"{place.get('file')}:{place.get('line')}" if isinstance(place, dict) else DASH
    block, thread = party.get("block"), party.get("thread")
    return f"{party.get('action', '')} at {where}, block {block}, thread {thread}"
