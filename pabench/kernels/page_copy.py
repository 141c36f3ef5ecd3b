# SPDX-License-Identifier: Apache-2.0
"""Launch plan of ``page_copy.cu``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pabench.device.base import Device, Launch
from pabench.errors import InvalidCase
from pabench.kernels.instance import LOAD_BYTES, KernelEntry, KernelInstance, address_of, kernel_source
from pabench.problem.pool import KvPool

FILE, ENTRY = "page_copy.cu", "page_copy"
THREADS = 256
MAX_BLOCKS = 64
"""Blocks of one cache; copies beyond are taken in turns, so that the grid does not depend on their number."""


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table: each width of a move that caches can ask for."""
    unit = LOAD_BYTES
    while unit:
        yield KernelInstance(
            file=FILE,
            label=f"moves of {unit} bytes",
            defines={"PAB_UNIT": unit},
            entries=(KernelEntry(name=ENTRY, threads=THREADS),),
        )
        unit //= 2


def copy_pages(device: Device, pools: Sequence[KvPool], copies: Any, count: Any) -> None:
    """Copy the beginnings of pages in the caches of all layers; nothing is read back.

    Args:
        device: where all arrays lie.
        pools: one a layer, of one shape and layout, written in place.
        copies: device array, int32 ``(n, 3)``: source page, target page, slots.
        count: device array, int64 ``(1,)``: how many of ``copies`` there are.

    Raises:
        InvalidCase: no pool, or pools that differ in shape or strides.
    """
    if not pools:
        raise InvalidCase("pools", 0, "must be at least one")
    first = pools[0]
    for pool in pools[1:]:
        for kind, one, other in (("k", pool.k, first.k), ("v", pool.v, first.v)):
            if one.shape != other.shape or pool.strides(kind) != first.strides(kind):
                raise InvalidCase("pools", one.shape, f"must be alike, like {other.shape}")
    if first.parts is not None and first.parts.latent:
        sides = [[pool.k for pool in pools]]
    elif first.k.shape == first.v.shape and first.strides("k") == first.strides("v"):
        sides = [[cache for pool in pools for cache in (pool.k, pool.v)]]
    else:
        sides = [[pool.k for pool in pools], [pool.v for pool in pools]]
    for caches, kind in zip(sides, "kv", strict=False):
        _launch(device, caches, first, first.strides(kind), copies, count)


def _launch(
    device: Device,
    caches: Sequence[Any],
    pool: KvPool,
    element_strides: tuple[int, int, int],
    copies: Any,
    count: Any,
) -> None:
    """Copy within ``caches``, which are alike."""
    first = caches[0]
    itemsize = first.dtype.itemsize
    strides = [stride * itemsize for stride in element_strides]
    row_bytes = first.shape[-1] * itemsize
    bases = [address_of(cache) for cache in caches]
    unit = LOAD_BYTES
    while any(number % unit for number in (row_bytes, *strides, *bases)):
        unit //= 2
    num_kv_heads = first.shape[2 if pool.kv_layout == "NHD" else 1]
    launch = Launch(
        entry=ENTRY,
        grid=(min(MAX_BLOCKS, max(1, copies.shape[0])), len(bases), 1),
        block=(THREADS, 1, 1),
        args=(
            *(device.to_device(np.array(bases, np.uint64)), copies, count),
            *(np.int32(num_kv_heads), np.int32(row_bytes)),
            *(np.int64(stride) for stride in strides),
        ),
    )
    device.load(kernel_source(device, FILE, PAB_UNIT=unit)).launch(launch)
