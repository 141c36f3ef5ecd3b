# SPDX-License-Identifier: Apache-2.0
"""Whether the checked device is right about a control, under every schedule that was tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabench.controls.launch import kernel_source, prepare, wrong_output
from pabench.controls.model import Control
from pabench.device.checked import CheckedDevice, KernelFindings
from pabench.device.findings import Finding
from pabench.errors import DeviceFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one launch of a control showed.

    Attributes:
        findings: of the checked device.
        fault: why the launch ended early without a finding.
        wrong: what a look-alike left wrong in its buffers.
    """

    findings: tuple[Finding, ...]
    fault: str | None
    wrong: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The checked device on one control.

    Attributes:
        control: the control.
        seeds: schedules tried.
        flagged: schedules under which something was found.
        found: classes of all findings.
        place_right: whether every finding named a marked line; None where nothing was found.
        problem: what is wrong, the first schedule's; None when the device is right.
        example: the first finding in words.
    """

    control: Control
    seeds: int
    flagged: int
    found: tuple[str, ...]
    place_right: bool | None
    problem: str | None
    example: str | None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "id": self.control.id,
            "file": self.control.file,
            "about": self.control.about,
            "expected": self.control.expect,
            "found": list(self.found),
            "flagged": self.flagged,
            "seeds": self.seeds,
            "place_right": self.place_right,
            "problem": self.problem,
            "example": self.example,
        }


def observe(control: Control, folder: Path, device: CheckedDevice, seed: int) -> Observation:
    """Launch ``control``, whose file lies in ``folder``, once under schedule ``seed``.

    ``device`` must raise its findings, as it does by default.
    """
    module = device.load(kernel_source(control, folder, device))
    prepared = prepare(control, device)
    device.reschedule(seed)
    try:
        module.launch(prepared.launch)
    except KernelFindings as caught:
        return Observation(findings=caught.findings, fault=None, wrong=None)
    except DeviceFault as error:
        return Observation(findings=(), fault=str(error), wrong=None)
    return Observation(findings=(), fault=None, wrong=wrong_output(control, device, prepared))


def judge(
    control: Control, folder: Path, device: CheckedDevice, seeds: Sequence[int], *, places: bool = True
) -> Verdict:
    """Run ``control`` under each of ``seeds``, and say whether the device was right every time.

    With ``places`` it is right only if each finding names a marked line.
    """
    problem = example = None
    found: set[str] = set()
    flagged = 0
    place_right: bool | None = None
    for seed in seeds:
        seen = observe(control, folder, device, seed)
        wrong = problem_of(control, seen, places=places)
        if wrong is not None and problem is None:
            problem = f"seed {seed}: {wrong}"
        if seen.findings:
            flagged += 1
            found |= {finding.check for finding in seen.findings}
            place_right = place_right is not False and all(at_a_mark(control, f) for f in seen.findings)
            example = example or str(seen.findings[0])
    return Verdict(
        control=control,
        seeds=len(seeds),
        flagged=flagged,
        found=tuple(sorted(found)),
        place_right=place_right,
        problem=problem,
        example=example,
    )


def at_a_mark(control: Control, finding: Finding) -> bool:
    """Whether a party of ``finding`` stands at a marked line of the control's file."""
    parties = (finding.at, finding.other, *finding.waiting)
    return any(
        party is not None and party.place.file == control.file and party.place.line in control.marks
        for party in parties
    )


def problem_of(control: Control, seen: Observation, *, places: bool = True) -> str | None:
    """Return what the checked device got wrong in one launch, or None; ``places`` as for ``judge``."""
    if not control.faulty:
        return (f"false alarm: {seen.findings[0]}" if seen.findings else None) or seen.fault or seen.wrong
    if not seen.findings:
        return f"missed, though the launch ended: {seen.fault}" if seen.fault else "missed"
    classes = {finding.check for finding in seen.findings}
    if control.expect not in classes or classes - {control.expect, *control.also}:
        odd = next((f for f in seen.findings if f.check != control.expect), seen.findings[0])
        return f"found {', '.join(sorted(classes))} for {control.expect}: {odd}"
    astray = next((f for f in seen.findings if not at_a_mark(control, f)), None)
    if places and astray is not None:
        lines = ", ".join(map(str, sorted(control.marks)))
        return f"place is not {control.file}:{lines}: {astray}"
    return None
