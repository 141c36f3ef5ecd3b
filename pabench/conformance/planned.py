"""A test of the suite before it runs, as supervisor and worker both know it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTest:
    """A test of the suite with the subject it will judge."""

    name: str
    subject: str
    subject_kind: str
