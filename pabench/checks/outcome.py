"""What one check says of one case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pabench.device.checked import KernelFindings

MAX_TEXT = 600
"""Characters of an exception's message that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The judgement of one case.

    Attributes:
        passed: the property holds.
        text: what happened and where, one line.
        max_ratio: largest err/T when the oracle was asked, else None.
        crashed: the subject raised instead of giving an answer to judge.
        findings: what a checked device found, as plain data; see ``device/findings.py``.
        lacks: (badge, what speaks against it) pairs: not wrong, and yet no badge; see ``badges.py``.
    """

    passed: bool
    text: str
    max_ratio: float | None = None
    crashed: bool = False
    findings: tuple[dict[str, Any], ...] = ()
    lacks: tuple[tuple[str, str], ...] = ()


PASSED = Outcome(passed=True, text="as it should be")


def failed(text: str, *, max_ratio: float | None = None) -> Outcome:
    """Return a failing outcome."""
    return Outcome(passed=False, text=text, max_ratio=max_ratio)


def raised(error: BaseException) -> Outcome:
    """Return the outcome of a subject that raised ``error``.

    Findings of a checked device are a verdict; anything else is a crash, told by type and message.
    """
    message = " ".join(str(error).split())
    if isinstance(error, KernelFindings):
        found = tuple(finding.to_json() for finding in error.findings)
        return Outcome(passed=False, text=message, findings=found)
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return Outcome(
        passed=False, text=text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}...", crashed=True
    )
