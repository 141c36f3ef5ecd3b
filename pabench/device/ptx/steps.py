# SPDX-License-Identifier: Apache-2.0
"""Where lanes that run in step wait for those of the warp that are behind."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.device.ptx.parse import Instruction

READS = ("ld", "ldmatrix")
STEPS = (*READS, "st", "atom", "red", "cp", "stmatrix", "bra")
"""Accesses, and the turns of loops."""


@dataclass(slots=True, kw_only=True)
class Steps:
    """What is known at one place of a function's text.

    Attributes:
        reading: every lane that comes here has waited, and has done nothing but read since; whatever may be
            reached otherwise, such as a label, sets it to False.
    """

    reading: bool = False

    def waits(self, i: Instruction) -> bool:
        """Return whether lanes wait before ``i``: reads that follow reads see the same in any order."""
        before = self.reading
        if i.mnemonic in READS:
            # a lane whose predicate is false does not wait
            self.reading = before or not i.guard
            return not before
        if i.mnemonic in (*STEPS, "call"):
            self.reading = False
        return i.mnemonic in STEPS
