# SPDX-License-Identifier: Apache-2.0
"""A comparison as records, for JUnit."""

from __future__ import annotations

from pabench.comparison.compare import Comparison
from pabench.comparison.delta import Change
from pabench.comparison.words import change_words, ordered
from pabench.run.record import Record, Status, Subject


def records_of(found: Comparison) -> list[Record]:
    """Return a record for each line that is not the same, and one that stands for those that are."""
    records = [
        Record(
            kind="compare",
            id=f"{delta.id}/{delta.figure}",
            label=f"{delta.label}: {delta.figure}",
            subject=Subject(kind=found.kind, name=delta.subject),
            device=delta.device,
            status=_status(delta.worse, delta.change),
            reason=". ".join(filter(None, (change_words(delta), delta.reason, delta.accepted))),
        )
        for delta in ordered(found)
    ]
    same = found.counts.get(Change.SAME, 0)
    if same:
        records.append(
            Record(
                kind="compare",
                id="same",
                label=f"{same} the same",
                subject=Subject(kind=found.kind, name="all"),
                device="all",
                status=Status.PASSED,
            )
        )
    return records


def _status(worse: bool, change: Change) -> Status:
    if worse:
        return Status.FAILED
    return Status.INCONCLUSIVE if change == Change.UNSURE else Status.PASSED
