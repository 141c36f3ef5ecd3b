# SPDX-License-Identifier: Apache-2.0
"""Launches of ``ceilings.cu``: the plain read, copy and fill of memory that others are measured against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.device.base import Device, Launch, Module
from pabench.errors import InvalidCase
from pabench.kernels.instance import KernelEntry, KernelInstance, address_of, kernel_source
from pabench.problem.dtypes import Array

FILE = "ceilings.cu"
READ, COPY, FILL, EMPTY = "ceiling_read", "ceiling_copy", "ceiling_fill", "ceiling_empty"
TILE = "ceiling_tile"
THREADS = 256
WARPS = THREADS // 32
LANE_BYTES = 16
SHAPES = ((4, 6), (4, 8), (8, 4))
"""Lanes that a thread has on their way, and blocks of a multiprocessor; the fastest is the ceiling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CeilingShape:
    """Lanes on their way a thread, and blocks of the grid."""

    lanes: int
    blocks: int

    @property
    def text(self) -> str:
        """The shape in words."""
        return f"{self.lanes} lanes, {self.blocks} blocks"


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table."""
    for lanes in sorted({lanes for lanes, _ in SHAPES}):
        yield KernelInstance(
            file=FILE,
            label=f"{lanes} lanes a thread",
            defines=_defines(lanes),
            entries=tuple(
                KernelEntry(name=name, threads=THREADS) for name in (READ, COPY, FILL, TILE, EMPTY)
            ),
        )


def ceiling_shapes(device: Device) -> tuple[CeilingShape, ...]:
    """Return the shapes to try on ``device``."""
    sms = device.limits.multiprocessors
    return tuple(CeilingShape(lanes=lanes, blocks=sms * blocks) for lanes, blocks in SHAPES)


class CeilingKernels:
    """The kernels of one shape on a device.

    Args:
        device: where arrays lie and kernels run.
        shape: one of ``ceiling_shapes``, or any other.
    """

    def __init__(self, device: Device, shape: CeilingShape) -> None:
        self._device, self.shape = device, shape
        self._module: Module = device.load(kernel_source(device, FILE, **_defines(shape.lanes)))
        self._sums = device.empty((shape.blocks * WARPS,), np.dtype(np.uint32))

    def fill(self, data: Any, seed: int = 0) -> None:
        """Queue writing bits that look random to ``data``, a device array of whole 16-byte lanes."""
        self._launch(FILL, data, np.int64(_lanes(data)), np.uint32(seed))

    def read(self, data: Any) -> None:
        """Queue one read of ``data``."""
        self._launch(READ, data, self._sums, np.int64(_lanes(data)))

    def copy(self, source: Any, target: Any) -> None:
        """Queue one copy.

        Raises:
            InvalidCase: the arrays differ in size.
        """
        if source.nbytes != target.nbytes:
            raise InvalidCase(
                "target", target.nbytes, f"must have as many bytes as the source, {source.nbytes}"
            )
        self._launch(COPY, source, target, np.int64(_lanes(source)))

    def tile(self, block: Any, target: Any) -> None:
        """Queue filling ``target`` with ``block`` again and again, the last one cut off."""
        self._launch(TILE, block, np.int64(_lanes(block)), target, np.int64(_lanes(target)))

    def empty(self) -> None:
        """Queue a launch of one block that does nothing."""
        self._module.launch(Launch(entry=EMPTY, grid=(1, 1, 1), block=(32, 1, 1), args=()))

    def checksum(self) -> int:
        """Wait for ``read`` and return the sum of the 32-bit words that it read, modulo 2^32."""
        self._device.synchronize()
        sums: Array = self._device.to_host(self._sums)
        return int(sums.sum(dtype=np.uint64)) % 2**32

    def _launch(self, entry: str, *args: Any) -> None:
        launch = Launch(entry=entry, grid=(self.shape.blocks, 1, 1), block=(THREADS, 1, 1), args=args)
        self._module.launch(launch)


def _defines(lanes: int) -> Mapping[str, int]:
    return {"PAB_LANES": lanes}


def _lanes(data: Any) -> int:
    if data.nbytes % LANE_BYTES or address_of(data) % LANE_BYTES:
        rule = f"must be whole lanes of {LANE_BYTES} bytes that start at a multiple of them"
        raise InvalidCase("data", f"{data.nbytes} bytes at {address_of(data)}", rule)
    return int(data.nbytes) // LANE_BYTES
