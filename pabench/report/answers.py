# SPDX-License-Identifier: Apache-2.0
"""What a reader asks first, beside right or wrong: badges, the page size, regressions."""

from __future__ import annotations

from collections.abc import Sequence

from pabench.report.against import Against
from pabench.report.page_answer import page_answer
from pabench.report.source import Source
from pabench.report.summaries import SummaryRow

MOST_SUBJECTS = 4


def build_answers(
    source: Source, summaries: Sequence[SummaryRow], against: Against | None
) -> tuple[tuple[str, str], ...]:
    """Return (question, answer), those that have one."""
    found = [("Badges", _badges(row, alone=len(summaries) == 1)) for row in summaries[:MOST_SUBJECTS]]
    if (more := len(summaries) - MOST_SUBJECTS) > 0:
        found.append(("Badges", f"{more} more subjects are in the table below."))
    if answer := page_answer(source):
        found.append(("Page size", answer))
    if against is not None:
        found.append(("Against the base", against.headline))
    return tuple(found)


def _badges(row: SummaryRow, *, alone: bool) -> str:
    parts = [f"{row.clauses} clauses kept"]
    if row.broken:
        parts.append(f"{len(row.broken.split(', '))} broken")
    if row.open:
        parts.append(f"{len(row.open.split(', '))} not judged")
    if row.profiles or row.badges or row.without or row.broken:
        parts.append(f"profiles {', '.join(row.profiles) or 'none'}")
        parts.append(f"badges {', '.join(row.badges) or 'none'}")
    return ("" if alone else f"{row.subject}: ") + "; ".join(parts)
