# SPDX-License-Identifier: Apache-2.0
"""Two checkers on the same controls, side by side: the checked device and compute-sanitizer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pabench.controls.model import Control
from pabench.controls.sanitizer import DEADLINE_S, ToolVerdict, watch
from pabench.controls.verdict import Verdict

NOT_LOOKED_FOR = "no tool"
"""What stands for compute-sanitizer where none of its tools looks for the fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One control and both verdicts.

    Attributes:
        ours: the checked device's.
        theirs: compute-sanitizer's; None where no tool of it looks for the fault.
    """

    ours: Verdict
    theirs: ToolVerdict | None

    @property
    def control(self) -> Control:
        """The control."""
        return self.ours.control

    @property
    def state(self) -> str:
        """``flagged``, ``clean``, ``deadline``, ``failed`` or ``no tool``, of compute-sanitizer."""
        return self.theirs.state if self.theirs else NOT_LOOKED_FOR

    @property
    def place_right(self) -> bool | None:
        """Whether compute-sanitizer named a marked line; None where it named none of the kernel file."""
        if self.theirs is None or not self.theirs.lines or not self.control.faulty:
            return None
        return bool(self.control.marks & set(self.theirs.lines))

    @property
    def problem(self) -> str | None:
        """What is wrong: with the checked device, or with a look-alike on the GPU."""
        if self.ours.problem:
            return self.ours.problem
        if self.control.faulty or self.theirs is None:
            return None
        if self.theirs.wrong:
            return f"on the GPU: {self.theirs.wrong}"
        if self.theirs.state != "clean":
            return f"{self.theirs.tool} on the GPU: {self.theirs.state}: {self.theirs.headline}"
        return None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        theirs = asdict(self.theirs) | {"place_right": self.place_right} if self.theirs else None
        return {**self.ours.to_json(), "problem": self.problem, "compute_sanitizer": theirs}


def compare(verdict: Verdict, folder: Path, program: Path, *, deadline_s: float = DEADLINE_S) -> Compared:
    """Return ``verdict`` beside that of compute-sanitizer, which runs the control on the GPU.

    A control for whose fault no tool looks is not run there: nothing would stop it.
    """
    control = verdict.control
    if control.faulty and control.tool == "none":
        return Compared(ours=verdict, theirs=None)
    return Compared(ours=verdict, theirs=watch(control, folder, program, deadline_s=deadline_s))
