"""A comparison as one HTML file, and as records for JUnit."""

from __future__ import annotations

import jinja2

from pabench import __version__
from pabench.comparison.compare import Comparison
from pabench.comparison.delta import Change
from pabench.comparison.words import change_words, headline, ordered
from pabench.resources import resource_dir
from pabench.run.record import Record, Status, Subject

PAGE_ROWS = 2000
"""Rows of a page; the JSON file has all."""


def page_of(found: Comparison) -> str:
    """Return the page: the answer first, no script, everything a stranger wrote escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resource_dir("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    told = ordered(found)
    rows = [(delta, change_words(delta)) for delta in told[:PAGE_ROWS]]
    return environment.get_template("compare.html.j2").render(
        found=found,
        headline=headline(found),
        rows=rows,
        left=len(told) - len(rows),
        same=found.counts.get(Change.SAME, 0),
        version=__version__,
    )


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
