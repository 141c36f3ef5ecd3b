"""What one check says of one case, and the registry that names checks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The judgement of one case.

    Attributes:
        passed: the property holds.
        text: what happened and where, one line.
        max_ratio: largest err/T when the oracle was asked, else None.
    """

    passed: bool
    text: str
    max_ratio: float | None = None


PASSED = Outcome(passed=True, text="as it should be")


def failed(text: str, *, max_ratio: float | None = None) -> Outcome:
    """Return a failing outcome."""
    return Outcome(passed=False, text=text, max_ratio=max_ratio)
