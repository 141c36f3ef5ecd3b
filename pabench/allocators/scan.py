"""The scan allocator: block table, lengths and free ring on the device, one launch a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pabench.allocators.base import PoolShape, check_extend, check_free
from pabench.device.base import Device
from pabench.errors import DeviceFault, OutOfPages
from pabench.kernels import alloc_scan
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed


class ScanAllocator:
    """Implements ``PageAllocator`` with ``page_alloc_scan.cu``; grants depend on sequence indices alone."""

    name = "scan"

    def __init__(self, device: Device, shape: PoolShape) -> None:
        self.shape = shape
        self._device = device
        self._state = alloc_scan.new_state(
            device,
            num_pages=shape.num_pages,
            page_size=shape.page_size,
            max_seqs=shape.max_seqs,
            max_pages_per_seq=shape.max_pages_per_seq,
        )

    def extend(self, tokens: Mapping[int, int]) -> Array:
        """Add tokens; see ``PageAllocator.extend``."""
        tokens = check_extend(self.shape, tokens, self._live())
        request = np.full(self.shape.max_seqs, -1, np.int32)
        for sequence, count in tokens.items():
            request[sequence] = count
        total = sum(tokens.values())
        slots = self._device.empty((max(1, total),), np.dtype(np.int64))
        code, needed, free = alloc_scan.extend(self._state, request, slots)
        if code == alloc_scan.TOO_FEW_PAGES:
            raise OutOfPages(f"{needed} pages needed, {free} free")
        if code != alloc_scan.OK:
            raise DeviceFault(f"page_alloc_extend: status {code} after the host's checks passed")
        return self._device.to_host(slots)[:total]

    def free(self, sequences: Sequence[int]) -> None:
        """End sequences; see ``PageAllocator.free``."""
        check_free(self.shape, sequences, self._live())
        request = np.zeros(self.shape.max_seqs, np.int32)
        request[list(sequences)] = 1
        code, _, _ = alloc_scan.free(self._state, request)
        if code != alloc_scan.OK:
            raise DeviceFault(f"page_alloc_free: status {code} after the host's checks passed")

    def length(self, sequence: int) -> int | None:
        """Return the tokens of a sequence, or None when it is not live."""
        return self._live().get(sequence)

    def pages(self, sequence: int) -> tuple[int, ...]:
        """Return the pages of a live sequence."""
        count = pages_needed(self._live()[sequence], self.shape.page_size)
        row = self._device.to_host(self._state.block_table)[sequence]
        return tuple(int(page) for page in row[:count])

    @property
    def free_pages(self) -> int:
        """Pages between the ring's head and tail."""
        head, tail = (int(value) for value in self._device.to_host(self._state.cursor))
        return tail - head

    def _live(self) -> dict[int, int]:
        lengths = self._device.to_host(self._state.lengths)
        return {sequence: int(n) for sequence, n in enumerate(lengths) if n >= 0}
