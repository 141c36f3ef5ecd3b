# SPDX-License-Identifier: Apache-2.0
"""The executor that launches a kernel: attention through the tables as they are, held to the oracle."""

from __future__ import annotations

from typing import Any

from pabench.activities.serving.executors import Executor, StepWork
from pabench.activities.serving.recorded import JudgedAllocator, Violation
from pabench.checks.table_decode import decode_through_tables
from pabench.device.base import Device
from pabench.problem.checks import whole_number


class KernelExecutor:
    """Decodes every live sequence through the allocator's tables in each k-th step.

    The clock is that of another executor: what a kernel takes on the emulated device says nothing.

    Attributes:
        launches: steps in which the kernel ran.
        decoded: sequences that were decoded.
        max_ratio: largest error over its bound.
    """

    name = "kernel"

    def __init__(
        self, allocator: JudgedAllocator, device: Device, clock: Executor, *, every: int = 1
    ) -> None:
        self._allocator, self._device, self._clock = allocator, device, clock
        self._every = whole_number("kernel_every", every, low=1)
        self.provenance = clock.provenance
        self.launches = self.decoded = 0
        self.max_ratio = 0.0

    @property
    def told(self) -> dict[str, Any]:
        """What it did, as JSON values."""
        return {"launches": self.launches, "sequences": self.decoded, "max_ratio": self.max_ratio}

    def step(self, work: StepWork) -> float:
        """See ``Executor``; raises ``Violation`` where the kernel's output is not what the tokens say."""
        if work.step % self._every == 0:
            decoded = decode_through_tables(self._allocator.trial, self._device)
            if decoded.wrong is not None:
                raise Violation(f"step {work.step}: {decoded.wrong}")
            if decoded.sequences:
                self.launches += 1
                self.decoded += decoded.sequences
                self.max_ratio = max(self.max_ratio, decoded.max_ratio or 0.0)
        return self._clock.step(work)
