# SPDX-License-Identifier: Apache-2.0
"""Launches of ``instruments.cu``: a gate for the stream, a multiprocessor's clock, a walk through the L2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pabench.device.base import Device, Launch, Module
from pabench.kernels.instance import KernelEntry, KernelInstance, kernel_source
from pabench.problem.dtypes import Array

FILE = "instruments.cu"
GATE, CLOCK, CHASE = "instrument_gate", "instrument_clock", "instrument_chase"
OPENED = 1
"""What the gate says when the host opened it, and not its limit."""
SPIN_NS = 20_000
"""Span over which cycles are counted: the nanosecond counter moves in steps of up to 1 us."""
LINE_WORDS = 32
"""Words between two places of the chain: a line of 128 bytes each."""
CHAIN_LINES = 256
"""32 KiB, about a page of a cache: more than a burst, far less than an L2."""


def instances() -> Iterator[KernelInstance]:
    """Yield the only instance of the static table."""
    yield KernelInstance(
        file=FILE,
        label="all",
        defines={},
        entries=tuple(KernelEntry(name=name, threads=1) for name in (GATE, CLOCK, CHASE)),
    )


class InstrumentKernels:
    """The kernels on a device; all queue on the current stream, all answers wait for the device."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._module: Module = device.load(kernel_source(device, FILE))
        self._gate = device.zeros((1,), np.dtype(np.uint32))
        self._clock = device.zeros((2,), np.dtype(np.uint64))
        self._chase = device.zeros((3,), np.dtype(np.uint64))
        self._chain = device.to_device(chain_of(CHAIN_LINES))

    def gate(self, flag: Any, limit_ns: int) -> None:
        """Queue a wait until the host writes ``flag``, a u32 that both see, or ``limit_ns`` are over."""
        self._launch(GATE, flag, self._gate, np.uint64(limit_ns))

    def opened(self) -> bool:
        """Whether the last gate was opened by the host."""
        return int(self._device.to_host(self._gate)[0]) == OPENED

    def clock(self) -> None:
        """Queue a look at the clock."""
        self._launch(CLOCK, self._clock, np.uint64(SPIN_NS))

    def mhz(self) -> float | None:
        """Return what the last look saw in MHz, None where no time has passed."""
        cycles, spent_ns = (int(value) for value in self._device.to_host(self._clock))
        return 1e3 * cycles / spent_ns if spent_ns else None

    def chase(self) -> None:
        """Queue one walk through the chain: it is in the L2 afterwards."""
        self._launch(CHASE, self._chain, self._chase, np.int64(CHAIN_LINES))

    def chased_ns(self) -> float:
        """Return the nanoseconds of a read of the last walk."""
        return float(self._device.to_host(self._chase)[1]) / CHAIN_LINES

    def _launch(self, entry: str, *args: Any) -> None:
        self._module.launch(Launch(entry=entry, grid=(1, 1, 1), block=(1, 1, 1), args=args))


def chain_of(lines: int) -> Array:
    """Return u32 ``(lines * LINE_WORDS,)`` that leads once through every line and back, in no order."""
    order = np.concatenate(([0], 1 + np.random.default_rng(0).permutation(lines - 1)))
    chain = np.zeros(lines * LINE_WORDS, np.uint32)
    chain[order * LINE_WORDS] = np.roll(order, -1) * LINE_WORDS
    return chain
