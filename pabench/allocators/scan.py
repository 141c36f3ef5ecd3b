"""The scan allocator: block table, lengths and free ring on the device, one launch a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pabench.allocators.base import PageAllocator, PoolShape
from pabench.allocators.capabilities import Capabilities
from pabench.allocators.results import Granted, no_copies, no_positions
from pabench.device.base import Device
from pabench.errors import DeviceFault, InvalidCase, OutOfPages
from pabench.kernels import alloc_scan
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array


class ScanAllocator(PageAllocator):
    """Runs ``page_alloc_scan.cu``; grants depend on sequence indices alone."""

    name = "scan"
    capabilities = Capabilities(
        operations=frozenset({"alloc", "append", "append_batch", "free"}), order="sequence"
    )

    def __init__(self, device: Device, shape: PoolShape) -> None:
        super().__init__(shape)
        self._device = device
        self._state = alloc_scan.new_state(
            device,
            num_pages=shape.num_pages,
            page_size=shape.page_size,
            max_seqs=shape.max_seqs,
            max_pages_per_seq=shape.max_pages_per_seq,
        )

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        """See ``PageAllocator``; pages are taken when needed, so ``final_tokens`` changes nothing."""
        sequence = self.check_index(sequence)
        if self.length(sequence) is not None:
            raise InvalidCase("sequence", sequence, "must not be there already")
        tokens = whole_number(f"tokens of sequence {sequence}", tokens, low=0)
        if final_tokens is not None:
            whole_number("final_tokens", final_tokens, low=tokens)
        self.check_length(sequence, tokens)
        return self._grow([sequence], [tokens])

    def append(self, sequence: int, tokens: int) -> Granted:
        """See ``PageAllocator``."""
        return self.append_batch([sequence], [tokens])

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        """See ``PageAllocator``."""
        request = self.check_batch(sequences, tokens, self.lengths())
        return self._grow(list(request), list(request.values()))

    def free(self, sequences: Sequence[int]) -> None:
        """See ``PageAllocator``."""
        lengths, request = self.lengths(), np.zeros(self.shape.max_seqs, np.int32)
        for named in sequences:
            sequence = self._live(named, lengths)
            if request[sequence]:
                raise InvalidCase("sequence", sequence, "must be freed once")
            request[sequence] = 1
        code, _, _ = alloc_scan.free(self._state, request)
        if code != alloc_scan.OK:
            raise DeviceFault(f"page_alloc_free: status {code} after the host's checks passed")

    def lengths(self) -> Array:
        """See ``PageAllocator``."""
        return self._device.to_host(self._state.lengths).astype(np.int64)

    def block_table(self) -> Array:
        """See ``PageAllocator``."""
        return self._device.to_host(self._state.block_table).copy()

    @property
    def free_pages(self) -> int:
        """Pages between the ring's head and tail."""
        head, tail = (int(value) for value in self._device.to_host(self._state.cursor))
        return tail - head

    def fingerprint(self) -> bytes:
        """See ``PageAllocator``."""
        state = self._state
        arrays = (state.ring, state.cursor, state.lengths, state.block_table)
        return b"".join(self._device.to_host(array).tobytes() for array in arrays)

    def _live(self, named: int, lengths: Array) -> int:
        sequence = self.check_index(named)
        if lengths[sequence] < 0:
            raise InvalidCase("sequence", sequence, "must be live")
        return sequence

    def _grow(self, sequences: Sequence[int], tokens: Sequence[int]) -> Granted:
        """One launch; the kernel starts a sequence that is not live."""
        wanted, page_size = sum(tokens), self.shape.page_size
        if wanted > self.shape.num_pages * page_size:  # before a flood makes room for its slots
            old = np.maximum(self.lengths()[sequences], 0)
            needed = -(-(old + tokens) // page_size) - -(-old // page_size)
            raise OutOfPages(int(needed.sum()), self.free_pages)
        request = np.full(self.shape.max_seqs, -1, np.int32)
        request[sequences] = tokens
        slots = self._device.empty((max(1, wanted),), np.dtype(np.int64))
        code, needed, free = alloc_scan.extend(self._state, request, slots)
        if code == alloc_scan.TOO_FEW_PAGES:
            raise OutOfPages(needed, free)
        if code != alloc_scan.OK:
            raise DeviceFault(f"page_alloc_extend: status {code} after the host's checks passed")
        # the kernel's slots come in order of sequence index, the caller's requests in any
        by_index = self._device.to_host(slots)[:wanted]
        owner = np.repeat(np.asarray(sequences, np.int64), tokens)
        in_order = np.empty(wanted, np.int64)
        in_order[np.argsort(owner, kind="stable")] = by_index
        return Granted(new_slots=in_order, copies=no_copies(), refused=no_positions())
