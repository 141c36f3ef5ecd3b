# SPDX-License-Identifier: Apache-2.0
"""Times work on the current CUDA device: a CUDA graph where the work can be captured, between two events.

Launches cost the host some microseconds each, which a graph hides; its own launch and the recording of the
events hide behind a gate, or behind ``lead``, work that is queued before them.  Nothing here knows what is
timed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pabench.device.cuda_gate import CudaGate
from pabench.errors import DeviceFault

Queue = Callable[[], None]
"""Queues work on the current stream and returns at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elapsed:
    """One sample.

    Attributes:
        device_ns: between the two events.
        host_ns: from before the first launch until the device was idle, on the host's clock; work on streams
            that the events do not see is in here only.
        held: whether all was queued before the stream went on; None without a gate.
    """

    device_ns: float
    host_ns: float
    held: bool | None = None


class CudaTimer:
    """Events and, for graphs, a stream of its own that waits for no other."""

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._start, self._end = cupy.cuda.Event(), cupy.cuda.Event()
        self._properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        self.l2_bytes = int(self._properties["l2CacheSize"])
        """Of the device's L2 cache."""

    def capture(self, work: Queue) -> Queue | None:
        """Return what replays ``work`` as one graph on the timer's stream, or None where it cannot be
        captured.

        ``work`` is called once, without effect on memory.
        """
        cupy = self._cupy
        cupy.cuda.Device().synchronize()
        stream = self._stream
        with stream:
            stream.begin_capture()
            failed = False
            try:
                work()
            except Exception:
                # anybody's code; whether it works at all has been seen before, so it is the capture that
                # failed
                failed = True
            try:
                graph = stream.end_capture()
            except Exception:
                failed = True
        if failed:
            # whatever state the broken capture has left this one in
            self._stream = cupy.cuda.Stream(non_blocking=True)
            return None

        def replay() -> None:
            graph.launch(stream)

        return replay

    def elapsed(
        self,
        work: Queue,
        *,
        lead: Queue | None = None,
        after: Queue | None = None,
        gate: CudaGate | None = None,
        graph: bool,
    ) -> Elapsed:
        """Time ``work`` once, after ``lead``.

        Args:
            work: what ``capture`` returned, or launches for the default stream.
            lead, after: launches that go before and behind and are not timed.
            gate: keeps the stream waiting until all is queued.
            graph: whether ``work`` is of ``capture``.

        Raises:
            DeviceFault: the device reports an error.
        """
        cupy = self._cupy
        stream = self._stream if graph else cupy.cuda.Stream.null
        try:
            cupy.cuda.Device().synchronize()
            began = time.perf_counter_ns()
            with stream:
                if lead is not None:
                    lead()
                with contextlib.nullcontext() if gate is None else gate.closed():
                    self._start.record(stream)
                    work()
                    self._end.record(stream)
                    if after is not None:
                        after()
            self._end.synchronize()
            cupy.cuda.Device().synchronize()
            finished = time.perf_counter_ns()
            spent_ms = cupy.cuda.get_elapsed_time(self._start, self._end)
            held = None if gate is None else gate.held()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceFault(f"the CUDA device reports: {error}") from error
        return Elapsed(device_ns=1e6 * float(spent_ms), host_ns=float(finished - began), held=held)

    def properties(self) -> dict[str, Any]:
        """Return name, compute capability, multiprocessors, L2 cache and memory as CUDA tells them."""
        found = self._properties
        return {
            "name": found["name"].decode(),
            "compute_capability": f"{found['major']}.{found['minor']}",
            "multiprocessors": int(found["multiProcessorCount"]),
            "l2_bytes": self.l2_bytes,
            "memory_bytes": int(self._cupy.cuda.runtime.memGetInfo()[1]),
        }

    def free_bytes(self) -> int:
        """Return how much memory of the GPU is free, unused memory of the pool included."""
        self.trim()
        return int(self._cupy.cuda.runtime.memGetInfo()[0])

    def held_bytes(self) -> int:
        """Return what CuPy's pool has taken from the GPU: it grows where a timed call allocates."""
        return int(self._cupy.get_default_memory_pool().total_bytes())

    def trim(self) -> None:
        """Give unused memory back, so that the next cell's large arrays find room."""
        self._cupy.get_default_memory_pool().free_all_blocks()

    def pci_address(self) -> str | None:
        """Return the GPU's PCI address, by which nvidia-smi knows it whatever CUDA_VISIBLE_DEVICES says."""
        address: Any = getattr(self._cupy.cuda.Device(), "pci_bus_id", None)
        return str(address) if address else None
