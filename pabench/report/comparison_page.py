# SPDX-License-Identifier: Apache-2.0
"""A comparison as one HTML file."""

from __future__ import annotations

from pabench import __version__
from pabench.comparison.compare import Comparison
from pabench.comparison.delta import Change
from pabench.comparison.words import change_words, headline, ordered
from pabench.report.templates import template

PAGE_ROWS = 2000
"""Rows of a page; the JSON file has all."""


def page_of(found: Comparison) -> str:
    """Return the page: the answer first, no script, everything a stranger wrote escaped."""
    told = ordered(found)
    rows = [(delta, change_words(delta)) for delta in told[:PAGE_ROWS]]
    return template("compare.html.j2").render(
        found=found,
        headline=headline(found),
        rows=rows,
        left=len(told) - len(rows),
        same=found.counts.get(Change.SAME, 0),
        version=__version__,
    )
