# SPDX-License-Identifier: Apache-2.0
"""Device state of the scan allocator, and launches of ``page_alloc_scan.cu`` and ``page_alloc_release.cu``.

No launch depends on what the state holds: grid, block and arguments follow from the sizes alone, and what
became of a step stays in ``ScanState.status`` until somebody reads it.  So a CUDA graph can hold steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.device.base import Device, Launch, Module
from pabench.errors import InvalidCase
from pabench.kernels.decode import StepPlan
from pabench.kernels.instance import KernelEntry, KernelInstance, kernel_source
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array

FILE, RELEASE_FILE = "page_alloc_scan.cu", "page_alloc_release.cu"
MIN_THREADS, MAX_THREADS = 64, 1024
SCAN_BYTES = 128 * 8
EACH = 4
"""Entries of a thread in a pass of the block that plans an extend."""
STEPS = ("extend", "drop", "push", "fork", "reset", "fence")
EXTEND, DROP, PUSH, FORK, RESET, FENCE = (f"page_alloc_{step}" for step in STEPS)
ENTRIES = {FILE: (EXTEND,), RELEASE_FILE: (DROP, PUSH, FORK, RESET, FENCE)}
"""Entry points of each file."""

PLANNING = {"PAB_DECODE_PLAN": 1, "PAB_FEATURES": 1}
"""Of an instance that plans the decode as well."""
GROUPED = {"PAB_GROUPS": 1}
"""Of an instance whose rows have page sizes of their own."""

STEPS_IN_FLIGHT = 1024
"""At most so many, a power of two."""

OK, TOO_FEW_PAGES, ROW_TOO_SHORT, NOT_LIVE, BAD_VALUE, STILL_LIVE, WRONG_STEPS = range(7)
END, CUT, WINDOW = range(3)
"""What ``drop`` does to a sequence: end it, cut it to a length, give up what a window has left behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What became of the last step.

    Attributes:
        code: ``OK`` or what was wrong; then nothing has changed.
        needed: pages that all entries of an extend need.
        free: pages free afterwards, without those that wait for steps in flight.
        concerned: first entry (reset: sequence) that was wrong, or -1.
        served: entries of an extend that were served, from the first on.
        pages: pages taken, or that nobody holds any more; at the end of a step, that came back.
        tokens: tokens added.
        copies: pages to be copied.
    """

    code: int
    needed: int
    free: int
    concerned: int
    served: int
    pages: int
    tokens: int
    copies: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanState:
    """The allocator's arrays on the device; shapes and types in the kernels' head comments.

    With ``group_sizes`` what the arrays call a sequence is a row, ``sequence * groups + group``.
    """

    device: Device
    grower: Module
    releaser: Module
    threads: int
    blocks: int
    num_pages: int
    page_size: int
    ring: Any
    cursor: Any
    marks: Any
    refcounts: Any
    lengths: Any
    block_table: Any
    copies: Any
    status: Any
    page_ends: Any
    token_ends: Any
    plan: Any
    header: Any
    shared_drops: Any
    last_drop: Any
    gate: Any
    drop_header: Any
    drop_tiles: Any
    drop_gate: Any
    group_sizes: Any | None


def block_threads(max_seqs: int) -> int:
    """Return the threads of the block: powers of two, so that few instances serve every size."""
    return max(MIN_THREADS, min(MAX_THREADS, 1 << (max_seqs - 1).bit_length()))


def extend_bytes(threads: int) -> int:
    """Return the dynamic shared memory of an extend: the scan's, and two sums for each entry of a pass."""
    return SCAN_BYTES + 2 * 8 * EACH * threads


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table."""
    threads = MIN_THREADS
    while threads <= MAX_THREADS:
        for file, names in ENTRIES.items():
            shared = extend_bytes(threads) if file == FILE else SCAN_BYTES
            entries = tuple(KernelEntry(name=name, threads=threads, shared_bytes=shared) for name in names)
            kinds: dict[str, dict[str, int]] = {"": {}, " with KV groups": GROUPED}
            if file == FILE:
                kinds[" with decode plan"] = PLANNING
            for label, more in kinds.items():
                yield KernelInstance(
                    file=file,
                    label=f"{threads} threads{label}",
                    defines=_defines(threads) | more,
                    entries=entries,
                )
        threads *= 2


def new_state(
    device: Device,
    *,
    num_pages: int,
    page_size: int,
    max_seqs: int,
    max_pages_per_seq: int,
    blocks: int = 1,
    group_sizes: Sequence[int] = (),
) -> ScanState:
    """Return the state of an empty pool: pages 0.. in the ring, no sequence live.

    Args:
        device: where it lies.
        num_pages: of the pool.
        page_size: tokens of a page.
        max_seqs: sequences, each of which has a row of the table, or one for each group.
        max_pages_per_seq: columns of the table.
        blocks: of an extend or a drop, a power of two; more than one pays for steps of thousands of pages.
        group_sizes: tokens of a page of each KV group; none for a single table.

    Raises:
        InvalidCase: ``blocks`` is no power of two.
    """
    whole_number("blocks", blocks, low=1, high=1024)
    if blocks & (blocks - 1):
        raise InvalidCase("blocks", blocks, "must be a power of two")
    max_seqs *= max(1, len(group_sizes))
    threads = block_threads(max_seqs)
    defines = _defines(threads, grouped=bool(group_sizes))
    capacity = 1 << (num_pages - 1).bit_length()
    ring = np.zeros(capacity, np.uint32)
    ring[:num_pages] = np.arange(num_pages)
    return ScanState(
        device=device,
        grower=device.load(kernel_source(device, FILE, **defines)),
        releaser=device.load(kernel_source(device, RELEASE_FILE, **defines)),
        threads=threads,
        blocks=blocks,
        num_pages=num_pages,
        page_size=page_size,
        ring=device.to_device(ring),
        cursor=device.to_device(np.array([0, num_pages, num_pages, 0, 0], np.uint64)),
        marks=device.zeros((STEPS_IN_FLIGHT,), np.dtype(np.uint64)),
        refcounts=device.zeros((num_pages,), np.dtype(np.uint32)),
        lengths=device.to_device(np.full(max_seqs, -1, np.int32)),
        block_table=device.to_device(np.full((max_seqs, max_pages_per_seq), -1, np.int32)),
        copies=device.empty((max_seqs, 3), np.dtype(np.int32)),
        status=device.empty((8,), np.dtype(np.int64)),
        page_ends=device.empty((max_seqs,), np.dtype(np.uint64)),
        token_ends=device.empty((max_seqs,), np.dtype(np.uint64)),
        plan=device.empty((max_seqs,), np.dtype(np.uint32)),
        header=device.empty((4,), np.dtype(np.uint64)),
        shared_drops=device.zeros((num_pages,), np.dtype(np.uint32)),
        last_drop=device.zeros((num_pages,), np.dtype(np.uint32)),
        gate=device.zeros((2,), np.dtype(np.uint32)),
        drop_header=device.empty((3,), np.dtype(np.uint64)),
        drop_tiles=device.zeros((2 * blocks,), np.dtype(np.uint32)),
        drop_gate=device.zeros((3,), np.dtype(np.uint32)),
        group_sizes=device.to_device(np.array(group_sizes, np.int32)) if group_sizes else None,
    )


def extend(
    state: ScanState,
    sequences: Any,
    tokens: Any,
    slot_mapping: Any,
    *,
    prefix: bool = False,
    plan: StepPlan | None = None,
) -> None:
    """Launch a step that grows sequences.

    Args:
        state: changed in place when the status is ``OK``.
        sequences: device array, int32 ``(max_seqs,)``; -1 for an entry without request.
        tokens: device array, int32 ``(max_seqs,)``, to add.
        slot_mapping: device array, int64, with room for each token that can be served.
        prefix: serve the entries that fit, from the first on, where not all do.
        plan: of a decode call over the lengths of ``state``, written by the same launch; only its ``decode``
            is then left to launch.

    Raises:
        InvalidCase: ``plan`` is about other lengths, or the pool has groups.
    """
    of = state
    args = (
        *(sequences, tokens, of.ring, of.cursor, of.refcounts, of.lengths, of.block_table, slot_mapping),
        *(of.copies, of.status, of.page_ends, of.token_ends, of.plan, of.header, of.shared_drops, of.gate),
        *(*_sizes(state), np.int32(prefix), *_groups(state)),
    )
    grower = state.grower
    if plan is not None:
        if of.group_sizes is not None:
            raise InvalidCase("plan", "of a decode", "must not be given where the pool has KV groups")
        if plan.kv_lens is not of.lengths:
            raise InvalidCase("plan", "kv_lens", "must be the lengths of the allocator")
        source = kernel_source(of.device, FILE, **_defines(of.threads), **PLANNING)
        grower, args = of.device.load(source), (*args, *plan.args)
    _launch(state, grower, EXTEND, args, blocks=state.blocks)


def drop(state: ScanState, sequences: Any, values: Any, what: int) -> None:
    """Launch a step that lets pages go; ``what`` is ``END``, ``CUT`` or ``WINDOW``.

    Two launches: what is freed depends on all who let go of it.
    """
    of = state
    mask, *sizes = _sizes(state)
    groups = _groups(state)
    finds = (
        *(sequences, values, of.cursor, of.refcounts, of.lengths, of.block_table, of.status, of.page_ends),
        *(of.shared_drops, of.last_drop, of.drop_header, of.drop_gate, *sizes, np.int32(what), *groups),
    )
    gives = (
        *(sequences, values, of.ring, of.cursor, of.refcounts, of.lengths, of.block_table, of.status),
        *(of.page_ends, of.shared_drops, of.last_drop, of.drop_header, of.drop_tiles, of.drop_gate),
        *(mask, *sizes, np.int32(what), *groups),
    )
    _launch(state, state.releaser, DROP, finds, blocks=state.blocks)
    _launch(state, state.releaser, PUSH, gives, blocks=state.blocks)


def fork(state: ScanState, parents: Any, children: Any) -> None:
    """Launch a step in which children get the pages of their parents."""
    of = state
    arrays = (parents, children, of.cursor, of.refcounts, of.lengths, of.block_table, of.status)
    _launch(state, state.releaser, FORK, (*arrays, *_sizes(state)[1:], *_groups(state)))


def reset(state: ScanState) -> None:
    """Launch a return to the state of a new pool."""
    arrays = (state.ring, state.cursor, state.lengths, state.status)
    sizes = (np.int32(state.num_pages), np.int32(state.lengths.shape[0]))
    _launch(state, state.releaser, RESET, (*arrays, *sizes))


def begin_step(state: ScanState) -> None:
    """Launch the beginning of a step: what is let go from here on waits until it has ended."""
    _fence(state, 0)


def end_step(state: ScanState) -> None:
    """Launch the end of the oldest step in flight: what waited for it alone comes back."""
    _fence(state, 1)


def read_status(state: ScanState) -> Status:
    """Wait for the last step and return what became of it."""
    state.device.synchronize()
    values: Array = state.device.to_host(state.status)
    code, needed, free, concerned, served, pages, tokens, copies = (int(value) for value in values)
    return Status(
        **{"code": code, "needed": needed, "free": free, "concerned": concerned},
        **{"served": served, "pages": pages, "tokens": tokens, "copies": copies},
    )


def _defines(threads: int, *, grouped: bool = False) -> dict[str, int]:
    return {"PAB_THREADS": threads} | (GROUPED if grouped else {})


def _groups(state: ScanState) -> tuple[Any, ...]:
    sizes = state.group_sizes
    return () if sizes is None else (sizes, np.int32(sizes.shape[0]))


def _fence(state: ScanState, what: int) -> None:
    mask = np.uint32(STEPS_IN_FLIGHT - 1)
    _launch(state, state.releaser, FENCE, (state.cursor, state.marks, state.status, mask, np.int32(what)))


def _sizes(state: ScanState) -> tuple[Any, ...]:
    max_seqs, max_pages = state.block_table.shape
    mask = np.uint32(state.ring.shape[0] - 1)
    return mask, np.int32(max_seqs), np.int32(max_pages), np.int32(state.page_size)


def _launch(state: ScanState, module: Module, entry: str, args: tuple[Any, ...], blocks: int = 1) -> None:
    grid, block = (blocks, 1, 1), (state.threads, 1, 1)
    shared = extend_bytes(state.threads) if entry == EXTEND else SCAN_BYTES
    module.launch(Launch(entry=entry, grid=grid, block=block, shared_bytes=shared, args=args))
