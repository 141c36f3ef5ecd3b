# SPDX-License-Identifier: Apache-2.0
"""The verdict of a run in one line, the same that its page opens with."""

from __future__ import annotations

from pabench.report.faults import build_cards
from pabench.report.source import build_source
from pabench.report.verdict import build_verdict
from pabench.run.read import Run

COLOURS = {"passed": "green", "failed": "red", "warned": "yellow", "neutral": "cyan"}


def verdict_line(run: Run) -> tuple[str, str, str]:
    """Return word, colour and sentence: ``PASS``, ``green``, ``4 checks passed over 240 cases.``."""
    source = build_source([run])
    found = build_verdict(source, build_cards(source, drawn=False), ())
    return found.word, COLOURS[found.tone], f"{found.headline} {found.sentence}".strip()
