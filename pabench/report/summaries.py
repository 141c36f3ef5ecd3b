# SPDX-License-Identifier: Apache-2.0
"""Clauses, profiles and badges of each subject, as the report shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pabench.report.source import Source

if TYPE_CHECKING:
    from pabench.checks.summary import Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRow:
    """One subject on one device.

    Attributes:
        clauses: how many it keeps, of how many.
        broken: numbers of those it breaks.
        open: numbers of those that nothing judged.
        profiles: names of those held.
        badges: names of those earned.
        without: badge and what speaks against it, where one was looked for.
    """

    subject: str
    device: str
    clauses: str
    deviating: str
    broken: str
    open: str
    profiles: tuple[str, ...]
    badges: tuple[str, ...]
    without: tuple[tuple[str, str], ...]


def build_summaries(source: Source) -> tuple[SummaryRow, ...]:
    """Return a row for each subject and device, in the order of the journals."""
    # the state a line has on the page, which is the worse one when its journal contradicts itself
    lines = [
        {**line.data, "status": line.state, "cases": line.data.get("cases") or 0} for line in source.checks
    ]
    if not lines:
        return ()
    # loads the whole suite, which the page of a sweep or a server does without
    from pabench.checks.summary import summaries

    return tuple(
        SummaryRow(
            subject=found.subject,
            device=found.device,
            clauses=f"{len(found.kept)} of {found.clauses}",
            deviating=", ".join(found.deviating),
            broken=", ".join(found.broken),
            open=", ".join(found.open),
            profiles=_held(found.profiles),
            badges=_held(found.badges),
            without=tuple((badge.name, badge.why) for badge in found.badges if badge.state == "absent"),
        )
        for found in summaries(lines)
    )


def _held(claims: tuple[Claim, ...]) -> tuple[str, ...]:
    return tuple(claim.name for claim in claims if claim.held)
