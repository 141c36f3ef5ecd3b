# SPDX-License-Identifier: Apache-2.0
"""What one check says of one case."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pabench.checks.remote.errors import SubjectEnded, SubjectRaised
from pabench.device.checked import KernelFindings
from pabench.judge.hypotheses import one_of_them
from pabench.judge.suspect import Cause
from pabench.tracebacks import MAX_TEXT, described, formatted


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The judgement of one case.

    Attributes:
        passed: the property holds.
        text: what happened and where, one line.
        max_ratio: largest err/T when the oracle was asked, else None.
        crashed: the subject raised instead of giving an answer to judge.
        findings: what a checked device found, as plain data; see ``device/findings.py``.
        missing_badges: (badge, what speaks against it) pairs: not wrong, and yet no badge.
        causes: the explanations in ``text`` that fit, of a judged output.
        errors: largest absolute and relative error of the output, where the check tells them.
        traceback: of a subject that raised, as Python prints it; see ``tracebacks.formatted``.
    """

    passed: bool
    text: str
    max_ratio: float | None = None
    crashed: bool = False
    findings: tuple[dict[str, Any], ...] = ()
    missing_badges: tuple[tuple[str, str], ...] = ()
    causes: tuple[Cause, ...] = ()
    errors: tuple[float, float] | None = None
    traceback: str | None = None


def narrowed(outcome: Outcome, before: tuple[Cause, ...]) -> Outcome:
    """Return ``outcome`` with the explanations alone that fit an earlier case too.

    A small case fits many.  Where none fits both, all of its own are said, for the two may be two faults.
    """
    names = {cause.name for cause in before}
    both = tuple(cause for cause in outcome.causes if cause.name in names)
    if not both or both == outcome.causes:
        return outcome
    text = outcome.text.replace(one_of_them(outcome.causes), one_of_them(both))
    return replace(outcome, text=text, causes=both)


PASSED = Outcome(passed=True, text="as it should be")


def failed(text: str, *, max_ratio: float | None = None) -> Outcome:
    """Return a failing outcome."""
    return Outcome(passed=False, text=text, max_ratio=max_ratio)


def raised(error: BaseException) -> Outcome:
    """Return the outcome of a subject that raised ``error``.

    Findings of a checked device are a verdict; anything else is a crash, told by type, message and place.
    """
    if isinstance(error, SubjectEnded):
        return Outcome(passed=False, text=" ".join(str(error).split()), crashed=True)
    if isinstance(error, KernelFindings):
        found = tuple(finding.to_json() for finding in error.findings)
        return Outcome(passed=False, text=" ".join(str(error).split()), findings=found)
    there = error.traceback if isinstance(error, SubjectRaised) else formatted(error)
    return Outcome(passed=False, text=words_of(error), crashed=True, traceback=there)


def words_of(error: BaseException) -> str:
    """Return type, message and place of what a subject raised, here or in a process of its own; one line."""
    if not isinstance(error, SubjectRaised):
        return described(error)
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
