# SPDX-License-Identifier: Apache-2.0
"""What a state machine needs of the search that runs it."""

from __future__ import annotations

from typing import Protocol

from pabench.checks.case_files import AnyCase
from pabench.checks.observer import CaseObserver
from pabench.checks.outcome import Outcome
from pabench.device.base import Device
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.capabilities import Capabilities


class Asking(Protocol):
    """Who runs a machine: makes its allocators, hears of its steps and takes its verdict."""

    device: Device
    observer: CaseObserver

    @property
    def can(self) -> Capabilities:
        """What the allocator declares."""
        ...

    def new_allocator(self, shape: PoolShape) -> PageAllocator:
        """Return an empty allocator of the kind that is judged."""
        ...

    def announce(self, case: AnyCase) -> None:
        """Hear what is about to run, so that a crash has its case."""
        ...

    def note(self, case: AnyCase, outcome: Outcome) -> None:
        """Take a judgement; raises when it is a failure that no known deviation explains."""
        ...
