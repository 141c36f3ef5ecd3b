# SPDX-License-Identifier: Apache-2.0
"""Operations beside attention on the device: append, merge, gather and copies of pages, by our own kernels.

They move bytes and do little else, so that a copy of memory is their measure.  This runs where the device is;
``operations_judged.py`` says what they should have left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.activities.sweep.operation import HEAD_DIM, HEADS, PAGE_SIZE, QUERY_HEADS, STATES
from pabench.activities.sweep.stopwatch import Stopwatch
from pabench.device.base import Device
from pabench.device.checked import CheckedDevice
from pabench.device.counters import of_all_kernels
from pabench.kernels.append import append_tokens
from pabench.kernels.gather import plan_gather
from pabench.kernels.merge_states import plan_merge
from pabench.kernels.page_copy import copy_pages
from pabench.problem.dtypes import BFLOAT16, Array, encode
from pabench.problem.pool import KvPool
from pabench.timing.sampler import sample, warm_up

SHOWN = 256
"""Tokens or rows that come back to be judged, from the first on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """An operation that is ready to run.

    Attributes:
        run: queues it.
        written: arrays that it writes whole.
        shown: what is fetched of them afterwards.
    """

    run: Callable[[], None]
    written: tuple[Any, ...]
    shown: tuple[Any, ...]


def operation_times(
    device: Device, stopwatch: Stopwatch, name: str, size: int
) -> tuple[list[float], tuple[Array, ...]]:
    """Return nanoseconds of each call out of a cold cache, and what the last one left.

    Args:
        device: the current CUDA device.
        stopwatch: of it.
        name: of ``OPERATIONS``.
        size: tokens, rows or pages.
    """
    work = OPERATIONS[name](device, size)
    work.run()  # compilers are done before anything is timed or captured
    device.synchronize()
    replay = stopwatch.timer.capture(work.run)

    def poison() -> None:
        for array in work.written:
            stopwatch.poison(array)

    def once() -> float:
        found = stopwatch.sample(
            replay or work.run, hot=False, graph=replay is not None, gated=False, before=poison
        )
        return found.device_ns

    warm_up(once)
    taken = sample(once)
    left = tuple(device.to_host(array) for array in work.shown)
    stopwatch.trim()
    return list(taken.values_ns), left


def operation_counts(device: CheckedDevice, name: str, size: int) -> tuple[dict[str, Any], tuple[Array, ...]]:
    """Return what the checked device counts in one call, by figure, and what it left.

    Raises:
        KernelFindings: the kernel did what it must not.
    """
    work = OPERATIONS[name](device, size)
    device.counters.clear()
    work.run()
    device.synchronize()
    left = tuple(device.to_host(array) for array in work.shown)
    return of_all_kernels(device.counters.values()).memory_figures(), left


def _append(device: Device, size: int) -> Work:
    tokens, slots = tokens_of(size), order_of(size)
    storage = device.empty((2, -(-size // PAGE_SIZE), PAGE_SIZE, HEADS, HEAD_DIM), BFLOAT16.storage)
    pool = KvPool(storage=storage, kv_layout="NHD", interleaved=False)
    keys, values, mapping = (device.to_device(array) for array in (tokens[0], tokens[1], slots))

    def run() -> None:
        append_tokens(
            device, BFLOAT16, pool=pool, keys=keys, values=values, slot_mapping=mapping, page_size=PAGE_SIZE
        )

    return Work(run=run, written=(storage,), shown=(storage[:, : SHOWN // PAGE_SIZE],))


def _merge(device: Device, size: int) -> Work:
    outs, lses = states_of(size)
    states = [(device.to_device(out), device.to_device(lse)) for out, lse in zip(outs, lses, strict=True)]
    rows = device.to_device(np.tile(np.arange(size, dtype=np.int32), (STATES, 1)))
    plan = plan_merge(device, BFLOAT16, states=states, rows=rows, num_rows=size)

    def run() -> None:
        for launch in plan.launches:
            plan.module.launch(launch)

    return Work(run=run, written=(plan.out, plan.lse), shown=(plan.out[:SHOWN], plan.lse[:SHOWN]))


def _gather(device: Device, size: int) -> Work:
    """One sequence out of its pages, keys and values, as a kernel without pages would need it."""
    stored = pages_of(-(-size // PAGE_SIZE))
    pool = KvPool(storage=device.to_device(stored), kv_layout="NHD", interleaved=True)
    targets = tuple(device.empty((size, HEADS, HEAD_DIM), BFLOAT16.storage) for _ in range(2))
    order = order_of(len(stored)).astype(np.int32)[None]
    table, lens = device.to_device(order), device.to_device(np.array([size], np.int32))
    module, launches = plan_gather(
        device,
        stored=BFLOAT16,
        dense=BFLOAT16,
        caches=(pool.k, pool.v),
        strides=(2 * PAGE_SIZE * HEADS * HEAD_DIM, HEADS * HEAD_DIM, HEAD_DIM),
        block_table=table,
        kv_lens=lens,
        indptr=device.to_device(np.array([0, size], np.int32)),
        page_size=PAGE_SIZE,
        targets=targets,
    )

    def run() -> None:
        for launch in launches:
            module.launch(launch)

    return Work(run=run, written=targets, shown=tuple(target[:SHOWN] for target in targets))


def _copies(device: Device, size: int) -> Work:
    pages = np.concatenate([pages_of(size), np.zeros_like(pages_of(size))])
    storage = device.to_device(pages)
    pool = KvPool(storage=storage, kv_layout="NHD", interleaved=True)
    moves = np.stack([order_of(size), size + np.arange(size), np.full(size, PAGE_SIZE)], 1).astype(np.int32)
    copies, count = device.to_device(moves), device.to_device(np.array([size], np.int64))
    targets = storage[size:]
    return Work(
        run=lambda: copy_pages(device, [pool], copies, count),
        written=(targets,),
        shown=(targets[: SHOWN // PAGE_SIZE],),
    )


OPERATIONS: Mapping[str, Callable[[Device, int], Work]] = {
    "append": _append,
    "merge": _merge,
    "gather": _gather,
    "copy-pages": _copies,
}


def order_of(size: int) -> Array:
    """Return the slots of the tokens, or the pages that are copied."""
    return np.random.default_rng(1).permutation(size)


def tokens_of(size: int) -> Array:
    """Return keys and values of the tokens."""
    return _bits((2, size, HEADS, HEAD_DIM))


def pages_of(size: int) -> Array:
    """Return the pages before they are copied."""
    return _bits((size, 2, PAGE_SIZE, HEADS, HEAD_DIM))


def states_of(size: int) -> tuple[Array, Array]:
    """Return outputs and LSEs of the states."""
    lses = np.random.default_rng(2).standard_normal((STATES, size, QUERY_HEADS), np.float32)
    return _numbers((STATES, size, QUERY_HEADS, HEAD_DIM)), lses


def _numbers(shape: tuple[int, ...]) -> Array:
    return encode(np.random.default_rng(0).standard_normal(shape, np.float32), BFLOAT16)


def _bits(shape: tuple[int, ...]) -> Array:
    """Bits of finite numbers of any size: what is moved is compared bit for bit."""
    return np.random.default_rng(0).integers(0, 0x7F80, shape, BFLOAT16.storage)
