# SPDX-License-Identifier: Apache-2.0
"""The instruments of a sweep on a CUDA device: timer, cold cache, ceilings, clocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from pabench.activities.sweep.bulk import bulk_tensors, turned
from pabench.device.base import Device
from pabench.device.cuda_gate import CudaGate
from pabench.device.cuda_persisting import PersistingLines
from pabench.device.cuda_timer import CudaTimer, Elapsed
from pabench.errors import DeviceFault
from pabench.kernels.ceilings import LANE_BYTES, CeilingKernels, ceiling_shapes
from pabench.kernels.instruments import InstrumentKernels
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.tensors import Tensors
from pabench.timing.cold import L2Probe
from pabench.timing.sampler import Samples, StopRule, sample, warm_up
from pabench.timing.smi import Smi

LEAD_CACHES = 8
"""Sizes of the L2 cache that are read before each sample: it holds nothing of the work's, and no line to
write back; and the host has queued the work before it ends (some 100 us on an H200)."""
CEILING_CACHES = 64
"""Sizes of the L2 cache that a ceiling moves."""
CEILING_RULE = StopRule(least=10, most=100, seconds=0.3)
EMPTY_LAUNCHES = 200
EMPTY_PAIRS = 200
PROBES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample of a cell.

    Attributes:
        device_ns, host_ns: see ``Elapsed``.
        held: all was queued before the stream went on, or nobody asked.
        mhz: clock of the multiprocessors behind the work, None where it is not known.
    """

    device_ns: float
    host_ns: float
    held: bool = True
    mhz: float | None = None


class Stopwatch:
    """Measures on ``device``, which must be the current CUDA device.

    Attributes:
        timer: of the device.
        smi: of the same GPU.
        persisting: lines of its L2 cache that stay.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.timer = CudaTimer()
        self.smi = Smi(self.timer.pci_address())
        self._shapes = ceiling_shapes(device)
        self._kernels = CeilingKernels(device, self._shapes[0])
        self._sweep = self._array(LEAD_CACHES * self.timer.l2_bytes)
        self._kernels.fill(self._sweep)
        self._instruments = InstrumentKernels(device)
        self._gate = CudaGate(self._instruments)
        self.persisting = PersistingLines()
        self._floor_ns: float | None = None
        self._kept: Tensors | None = None

    def tensors(self, case: Case, turn: int) -> Tensors:
        """Return ``bulk_tensors(case)`` of a turn, whose cache is kept for the next one until ``trim``."""
        if self._kept is None or self._kept.case != case:
            self._kept = None  # before the next gigabytes
            self._kept = bulk_tensors(case)
        return turned(self._kept, turn)

    def trim(self) -> None:
        """Give back the memory of a cell, here and on the device."""
        self._kept = None
        self.timer.trim()

    def resident_tensors(self, case: Case, turn: int) -> Tensors:
        """Return ``bulk_tensors(case)`` of a turn with a cache of its own in the device's memory."""

        def tile(block: Array, shape: tuple[int, ...]) -> Any:
            elements = LANE_BYTES // block.itemsize
            lanes = max(1, -(-math.prod(shape) // elements))
            flat = self._device.empty((lanes * elements,), block.dtype)
            self._kernels.tile(self._device.to_device(block), flat)
            self._device.synchronize()  # before the block is given back
            return flat[: math.prod(shape)].reshape(shape)

        return bulk_tensors(case, tile, turn=turn)

    def elapsed(self, work: Callable[[], None], *, graph: bool) -> Elapsed:
        """Time ``work`` once behind a read that empties the cache."""
        return self.timer.elapsed(work, lead=self.flush, graph=graph)

    def flush(self) -> None:
        """Queue a read of far more than the L2 cache holds: it has nothing else afterwards."""
        self._kernels.read(self._sweep)

    def sample(
        self,
        work: Callable[[], None],
        *,
        hot: bool,
        graph: bool,
        gated: bool,
        before: Callable[[], None] = lambda: None,
    ) -> Sample:
        """Time ``work`` once and look at the clock behind it.

        Args:
            work: see ``CudaTimer.elapsed``.
            hot: let ``work`` itself go before, and not a read that empties the cache.
            graph: whether ``work`` is a capture.
            gated: whether the stream waits until all is queued.
            before: queued before all of it, and before the cache is emptied.
        """

        def lead() -> None:
            before()
            (work if hot else self.flush)()

        found = self.timer.elapsed(
            work,
            lead=lead,
            after=self._instruments.clock,
            gate=self._gate if gated else None,
            graph=graph,
        )
        return Sample(
            device_ns=found.device_ns,
            host_ns=found.host_ns,
            held=found.held is not False,
            mhz=self._instruments.mhz(),
        )

    def poison(self, array: Any) -> None:
        """Queue bits that are NaN, of whatever type, over an array of the device, CuPy's or torch's."""
        if hasattr(array, "fill_"):
            array.fill_(math.nan)
        elif array.nbytes:
            array.data.memset_async(0xFF, array.nbytes)

    def probe(self, between: Callable[[], None] | None) -> L2Probe:
        """Return how long reads take: again at once, after a flush, and after ``between``.

        Args:
            between: queues on the default stream what a policy does between two uses of a byte; None where
                it does nothing.
        """
        return L2Probe(
            hot_ns=self._chased(None), dram_ns=self._chased(self.flush), after_ns=self._chased(between)
        )

    def _chased(self, between: Callable[[], None] | None) -> float:
        times = []
        for _ in range(PROBES):
            self._instruments.chase()
            if between is not None:
                between()
            self._instruments.chase()
            self._device.synchronize()
            times.append(self._instruments.chased_ns())
        return median(times)

    @property
    def event_floor_ns(self) -> float:
        """What two events around nothing measure: the median of many pairs, taken once."""
        if self._floor_ns is None:
            pairs = [self.timer.elapsed(lambda: None, graph=False).device_ns for _ in range(EMPTY_PAIRS)]
            self._floor_ns = median(pairs)
        return self._floor_ns

    def hardware(self) -> dict[str, Any]:
        """Return ``device`` (CUDA's words), ``gpu`` (its state, or why not), ``ceilings``: JSON values."""
        ceilings, state = self.ceilings(), self.smi.read()
        gpu = {"problem": self.smi.problem} if state is None else asdict(state)
        return {"device": self.timer.properties(), "gpu": gpu, "ceilings": ceilings}

    def ceilings(self) -> dict[str, Any]:
        """Return what this GPU reaches at best, measured now: JSON values.

        ``read_gbps``, ``copy_gbps`` (bytes read and written) and ``fill_gbps`` are the best median over the
        shapes; ``launch_floor_ns`` is one of many empty launches in a graph, ``event_floor_ns`` the time of
        nothing.

        Raises:
            DeviceFault: what was read or copied is not what is there.
        """
        size = min(CEILING_CACHES * self.timer.l2_bytes, self.timer.free_bytes() // 4)
        tried = self._memory(size)
        self.timer.trim()

        def nothings() -> None:
            for _ in range(EMPTY_LAUNCHES):
                self._kernels.empty()

        nothing, launch = self.timer.capture(nothings), None
        if nothing is not None:
            launch = self._sampled(nothing, graph=True).median_ns / EMPTY_LAUNCHES
        return {
            **{key: max(row[key] for row in tried) for key in ("read_gbps", "copy_gbps", "fill_gbps")},
            "launch_floor_ns": launch,
            "event_floor_ns": self.event_floor_ns,
            "bytes": size,
            "l2_bytes": self.timer.l2_bytes,
            "shapes": tried,
        }

    def _memory(self, size: int) -> list[dict[str, Any]]:
        """Bandwidths of each shape, over arrays of ``size`` bytes."""
        source, target = self._array(size), self._array(size)
        self._kernels.fill(source, seed=1)
        tried = []
        for shape in self._shapes:
            kernels = CeilingKernels(self._device, shape)
            rates = {
                "read_gbps": self._rate(partial(kernels.read, source), size),
                "fill_gbps": self._rate(partial(kernels.fill, target), size),
                "copy_gbps": self._rate(partial(kernels.copy, source, target), 2 * size),
            }
            _compare(kernels, source, target, self._device)
            tried.append({"shape": shape.text, **rates})
        return tried

    def _rate(self, work: Callable[[], None], moved: int) -> float:
        return moved / max(1.0, self._sampled(work, graph=False).median_ns)

    def _sampled(self, work: Callable[[], None], *, graph: bool) -> Samples:
        def once() -> float:
            return self.elapsed(work, graph=graph).device_ns

        warm_up(once)
        return sample(once, CEILING_RULE)

    def _array(self, size: int) -> Any:
        return self._device.empty((max(1, size // LANE_BYTES) * (LANE_BYTES // 4),), np.dtype(np.uint32))


def _compare(kernels: CeilingKernels, source: Any, target: Any, device: Device) -> None:
    sums = []
    for data in (source, target):
        kernels.read(data)
        sums.append(kernels.checksum())
    head = slice(0, 4096)
    same = np.array_equal(device.to_host(source[head]), device.to_host(target[head]))
    if sums[0] != sums[1] or not same:
        raise DeviceFault(
            "GPU memory check failed (possible ECC or clock fault): "
            f"a copy reads {sums[1]:#x}, not {sums[0]:#x}"
        )
