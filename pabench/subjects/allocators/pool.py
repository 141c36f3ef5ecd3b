# SPDX-License-Identifier: Apache-2.0
"""Allocators whose threads each serve a request of their own: a ring with tickets, and a lock-free stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from pabench.device.base import Device
from pabench.errors import DeviceFault, InvalidCase, OutOfPages
from pabench.kernels import page_pool
from pabench.kernels.pool_launches import PoolLaunches
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.allocators.device_tables import DeviceTables
from pabench.subjects.allocators.results import Granted

OPERATIONS = frozenset({"alloc", "append", "append_batch", "free", "reset"})


class PoolAllocator(DeviceTables):
    """Runs ``page_alloc_pool.cu``; any page goes to whoever comes first."""

    kind: ClassVar[str]
    kernel_entries = frozenset({page_pool.EXTEND, page_pool.FREE})

    def __init__(self, device: Device, shape: PoolShape) -> None:
        super().__init__(device, shape)
        self._lengths = device.to_device(np.full(shape.max_seqs, -1, np.int32))
        self._table = device.to_device(np.full((shape.max_seqs, shape.max_pages_per_seq), -1, np.int32))
        self._results: Any = device.empty((shape.max_seqs,), np.dtype(np.int32))
        self._pool = page_pool.new_pool(device, self.kind, shape.num_pages)

    @property
    def free_pages(self) -> int:
        """See ``PageAllocator``."""
        return len(page_pool.free_list(self._pool))

    def fingerprint(self) -> bytes:
        """See ``PageAllocator``."""
        free = np.array(page_pool.free_list(self._pool), np.int64)
        return self.lengths().tobytes() + self.block_table().tobytes() + free.tobytes()

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        """See ``PageAllocator``; pages are taken when needed, so ``final_tokens`` changes nothing."""
        sequence, tokens = self.check_start(sequence, tokens, final_tokens)
        return self._grow_one(sequence, 0, tokens)

    def append(self, sequence: int, tokens: int) -> Granted:
        """See ``PageAllocator``."""
        lengths = self.lengths()
        ((sequence, tokens),) = self.check_batch([sequence], [tokens], lengths).items()
        return self._grow_one(sequence, int(lengths[sequence]), tokens)

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        """See ``PageAllocator``."""
        return self._grow(self.check_batch(sequences, tokens, self.lengths()))

    def free(self, sequences: Sequence[int]) -> None:
        """See ``PageAllocator``; pages go back in any order."""
        named = self.check_leaving(sequences)
        _served(page_pool.FREE, self._release(named)[: len(named)])

    def reset(self) -> None:
        """See ``PageAllocator``."""
        live = np.flatnonzero(self.lengths() >= 0).tolist()
        if live:
            raise InvalidCase("sequences", live, "must all be freed before a reset")
        self._pool = page_pool.new_pool(self._device, self.kind, self.shape.num_pages)

    def launches(self) -> PoolLaunches:
        """Return launches on another pool of the same kind and size, all of its pages free."""
        return PoolLaunches(page_pool.new_pool(self._device, self.kind, self.shape.num_pages))

    def start_empty(self, count: int) -> None:
        """See ``DeviceTables``."""
        self._grow(dict.fromkeys(range(count), 0))

    def launch(self, entry: str, columns: Sequence[Sequence[int]]) -> dict[str, Any]:
        """See ``PageAllocator``."""
        if entry == page_pool.EXTEND:
            results, _, _ = self._extend(*columns)
        elif entry == page_pool.FREE:
            results = self._release(*columns)
        else:
            raise self.no(entry)
        return {"results": results.tolist()}

    # --- parts ----------------------------------------------------------------------------------------

    def _grow_one(self, sequence: int, old: int, tokens: int) -> Granted:
        granted = self._grow({sequence: tokens})
        if granted.refused.size:
            size = self.shape.page_size
            raise OutOfPages(-(-(old + tokens) // size) - -(-old // size), self.free_pages)
        return granted

    def _grow(self, requests: dict[int, int]) -> Granted:
        """One launch; the kernel starts a sequence that is not live."""
        results, slots, taken = self._extend(list(requests), list(requests.values()))
        refused = _served(page_pool.EXTEND, results[: len(requests)])
        kept = np.repeat(~refused, taken)
        return Granted(
            new_slots=self._device.to_host(slots)[: int(taken.sum())][kept],
            refused=np.flatnonzero(refused),
        )

    def _extend(self, sequences: Sequence[int], tokens: Sequence[int]) -> tuple[Array, Any, Array]:
        """Launch ``page_pool_extend``.

        Returns:
            What became of its entries; the slots, on the device; how many of them each entry has.
        """
        # an entry too large for the whole pool is refused on the device too, but needs no room for its slots
        room = self.shape.page_size * (self.shape.num_pages + 1)
        taken = np.clip(np.array(tokens, np.int64), 0, room)
        starts = np.zeros(self.shape.max_seqs, np.int64)
        starts[1 : taken.size] = np.cumsum(taken)[:-1]
        slots: Any = self._device.empty((max(1, int(taken.sum())),), np.dtype(np.int64))
        columns = *self._request(sequences, tokens), self._device.to_device(starts)
        tables = self._lengths, self._table
        page_pool.extend(self._pool, tables, columns, slots, self._results, self.shape.page_size)
        self._device.synchronize()
        return self._device.to_host(self._results), slots, taken

    def _release(self, sequences: Sequence[int]) -> Array:
        """Launch ``page_pool_free`` and return what became of its entries."""
        (request,) = self._request(sequences)
        tables = self._lengths, self._table
        page_pool.free(self._pool, tables, request, self._results, self.shape.page_size)
        self._device.synchronize()
        return self._device.to_host(self._results)


def _served(entry: str, results: Array) -> Array:
    """Which entries were refused for want of pages, bool; raises ``DeviceFault`` for any other refusal."""
    wrong = results[(results != page_pool.SERVED) & (results != page_pool.REFUSED)]
    if wrong.size:
        raise DeviceFault(f"{entry}: status {int(wrong[0])} after the host's checks passed")
    refused: Array = results == page_pool.REFUSED
    return refused


class TicketAllocator(PoolAllocator):
    """A ring with tickets: one atomic operation a warp on its words."""

    name = kind = "ticket"
    capabilities = Capabilities(
        operations=OPERATIONS, order="set", determinism="counts", batch_mode="any", progress="blocking"
    )


class StackAllocator(PoolAllocator):
    """A lock-free stack, tagged against a page that leaves and comes back."""

    name = kind = "stack"
    capabilities = Capabilities(
        operations=OPERATIONS, order="set", determinism="counts", batch_mode="any", progress="lock-free"
    )
