# SPDX-License-Identifier: Apache-2.0
"""Holds a stream back until the host has queued all work behind the gate, so that launches cost no time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

LIMIT_NS = 50_000_000
"""A gate that nobody opens gives up after so long: work that waits for the device waits for the gate."""


class GateKernel(Protocol):
    """What waits on the device; ``InstrumentKernels``."""

    def gate(self, flag: Any, limit_ns: int) -> None:
        """Queue the wait."""

    def opened(self) -> bool:
        """Whether the host opened the last one, once the device is idle."""


class CudaGate:
    """A gate of the current CUDA device.

    Args:
        kernel: queues the wait on the current stream.
        limit_ns: after which it gives up.
    """

    def __init__(self, kernel: GateKernel, *, limit_ns: int = LIMIT_NS) -> None:
        import cupy

        self._kernel, self._limit_ns = kernel, limit_ns
        # pinned memory has one address on host and device; the device looks at it through the bus
        self._pinned = cupy.cuda.alloc_pinned_memory(4)
        self._host = np.frombuffer(self._pinned, np.uint32, 1)
        memory = cupy.cuda.UnownedMemory(self._pinned.ptr, 4, self._pinned, cupy.cuda.Device().id)
        self._flag = cupy.ndarray((1,), np.uint32, cupy.cuda.MemoryPointer(memory, 0))

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Hold back what is queued on the current stream within the block."""
        self._host[0] = 0
        self._kernel.gate(self._flag, self._limit_ns)
        try:
            yield
        finally:
            self._host[0] = 1

    def held(self) -> bool:
        """Whether all was queued before the stream went on; wait for the device first."""
        return self._kernel.opened()
