"""Device state and launches of ``page_alloc_scan.cu``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.device.base import Device, Launch, Module
from pabench.kernels.instance import KernelEntry, KernelInstance, kernel_source
from pabench.problem.dtypes import Array

FILE = "page_alloc_scan.cu"
EXTEND, FREE = "page_alloc_extend", "page_alloc_free"
MIN_THREADS, MAX_THREADS = 32, 1024
SHARED_BYTES = 64 * 8

OK, TOO_FEW_PAGES, ROW_TOO_SHORT, NOT_LIVE = range(4)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanState:
    """The allocator's arrays on the device; shapes and types in the kernel's head comment."""

    device: Device
    module: Module
    threads: int
    page_size: int
    ring: Any
    cursor: Any
    lengths: Any
    block_table: Any
    status: Any


def block_threads(max_seqs: int) -> int:
    """Return the threads of the block: powers of two, so that few instances serve every size."""
    return max(MIN_THREADS, min(MAX_THREADS, 1 << (max_seqs - 1).bit_length()))


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table."""
    threads = MIN_THREADS
    while threads <= MAX_THREADS:
        entries = tuple(
            KernelEntry(name=name, threads=threads, shared_bytes=SHARED_BYTES) for name in (EXTEND, FREE)
        )
        yield KernelInstance(
            file=FILE, label=f"{threads} threads", defines=_defines(threads), entries=entries
        )
        threads *= 2


def new_state(
    device: Device, *, num_pages: int, page_size: int, max_seqs: int, max_pages_per_seq: int
) -> ScanState:
    """Return the state of an empty pool: pages 0.. in the ring, no sequence live."""
    threads = block_threads(max_seqs)
    capacity = 1 << (num_pages - 1).bit_length()
    ring = np.zeros(capacity, np.uint32)
    ring[:num_pages] = np.arange(num_pages)
    return ScanState(
        device=device,
        module=device.load(kernel_source(device, FILE, **_defines(threads))),
        threads=threads,
        page_size=page_size,
        ring=device.to_device(ring),
        cursor=device.to_device(np.array([0, num_pages], np.uint64)),
        lengths=device.to_device(np.full(max_seqs, -1, np.int32)),
        block_table=device.to_device(np.full((max_seqs, max_pages_per_seq), -1, np.int32)),
        status=device.empty((4,), np.dtype(np.int64)),
    )


def extend(state: ScanState, request: Array, slot_mapping: Any) -> tuple[int, int, int]:
    """Launch one extend step and return ``(status, pages needed, pages free)``.

    Args:
        state: changed in place when the status is ``OK``.
        request: ``(max_seqs,) int32`` tokens to add, -1 to leave a sequence alone.
        slot_mapping: device array, int64, one entry for each new token.
    """
    args = (
        *(state.device.to_device(request), state.ring, state.cursor, state.lengths, state.block_table),
        *(slot_mapping, state.status, *_shape_arguments(state)),
    )
    return _launch(state, EXTEND, args)


def free(state: ScanState, request: Array) -> tuple[int, int, int]:
    """Launch one free step and return ``(status, pages returned, pages free)``."""
    args = (
        *(state.device.to_device(request), state.ring, state.cursor, state.lengths, state.block_table),
        *(state.status, *_shape_arguments(state)),
    )
    return _launch(state, FREE, args)


def _defines(threads: int) -> dict[str, int]:
    return {"PAB_THREADS": threads}


def _shape_arguments(state: ScanState) -> tuple[Any, ...]:
    max_seqs, max_pages = state.block_table.shape
    mask = np.uint32(state.ring.shape[0] - 1)
    return mask, np.int32(max_seqs), np.int32(max_pages), np.int32(state.page_size)


def _launch(state: ScanState, entry: str, args: tuple[Any, ...]) -> tuple[int, int, int]:
    grid, block = (1, 1, 1), (state.threads, 1, 1)
    state.module.launch(Launch(entry=entry, grid=grid, block=block, shared_bytes=SHARED_BYTES, args=args))
    state.device.synchronize()
    code, pages, left, _ = (int(value) for value in state.device.to_host(state.status))
    return code, pages, left
