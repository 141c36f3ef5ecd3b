# SPDX-License-Identifier: Apache-2.0
"""Launch plan of ``kv_gather.cu``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from pabench.device.base import Device, Launch, Module
from pabench.kernels.instance import (
    DTYPE_CODES,
    LOAD_BYTES,
    THREADS,
    WARPS,
    KernelEntry,
    KernelInstance,
    kernel_source,
    vector_width,
)
from pabench.problem.dtypes import DTYPES, E4M3, DType

FILE, ENTRY = "kv_gather.cu", "kv_gather"


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table: what is moved, and into what, by width of a move."""
    pairs = [(dtype, dtype) for dtype in (*DTYPES.values(), E4M3)]
    for stored, dense in pairs + [(E4M3, dtype) for dtype in DTYPES.values()]:
        width = LOAD_BYTES // dense.itemsize
        while width:
            words = stored.name if stored is dense else f"{stored.name} into {dense.name}"
            yield KernelInstance(
                file=FILE,
                label=f"{words} moves of {width}",
                defines=_defines(stored, dense, width),
                entries=(KernelEntry(name=ENTRY, threads=THREADS),),
            )
            width //= 2
    for dense in DTYPES.values():
        yield KernelInstance(
            file=FILE,
            label=f"rows of any format into {dense.name}",
            defines=_defines(E4M3, dense, 1) | {"PAB_E4M3": 0, "PAB_ROWS": 1},
            entries=(KernelEntry(name=ENTRY, threads=THREADS),),
        )


def plan_gather(
    device: Device,
    *,
    stored: DType,
    dense: DType,
    caches: tuple[Any, ...],
    strides: tuple[int, int, int],
    block_table: Any,
    kv_lens: Any,
    indptr: Any,
    page_size: int,
    targets: tuple[Any, ...],
    scales: Any | None = None,
    rows: tuple[Any, ...] = (),
) -> tuple[Module, tuple[Launch, ...]]:
    """Return the launch that copies tokens out of the pages.

    Args:
        device: where all arrays lie.
        stored: type of the cache.
        dense: type of the rows: ``stored``, or another one for a cache of e4m3 with ``scales``.
        caches: pages of keys, and of values when those are asked for.
        strides: elements between pages, tokens and heads of either.
        block_table: ``(num_seqs, max_pages) int32``.
        kv_lens: ``(num_seqs,) int32``.
        indptr: ``(num_seqs + 1,) int32``: rows ``indptr[i]:indptr[i+1]`` become the last of sequence i.
        page_size: tokens of one page.
        targets: ``(num_tokens, num_kv_heads, head_dim)``, as many as ``caches``.
        scales: float32 ``(2, num_kv_heads)``, what stored keys and values are multiplied by.
        rows: ``row_arguments`` of a cache whose rows are to become numbers; strides are bytes.
    """
    num_tokens, num_heads, head_dim = targets[0].shape
    apart = math.gcd(head_dim, *strides)
    width = min(vector_width(apart, stored, *caches), vector_width(head_dim, dense, *targets))
    width = 1 if rows else width
    num_seqs, max_pages = block_table.shape
    launch = Launch(
        entry=ENTRY,
        grid=(-(-num_tokens // WARPS), len(targets), 1),
        block=(THREADS, 1, 1),
        args=(
            *(caches[0], caches[-1], block_table, kv_lens, indptr, targets[0], targets[-1]),
            *(np.int32(n) for n in (num_tokens, num_seqs, num_heads, head_dim, page_size, max_pages)),
            *(np.int64(stride) for stride in strides),
            *rows,
            *(() if scales is None else (scales,)),
        ),
    )
    defines = _defines(stored, dense, width) | ({"PAB_E4M3": 0, "PAB_ROWS": 1} if rows else {})
    module = device.load(kernel_source(device, FILE, **defines))
    return module, (launch,) if num_tokens else ()


def _defines(stored: DType, dense: DType, width: int) -> dict[str, int]:
    return {
        # e4m3 that is moved as it is has no other type
        "PAB_DTYPE": DTYPE_CODES.get(dense.name, 0),
        "PAB_E4M3": int(stored is E4M3),
        "PAB_RAW": int(stored is dense),
        "PAB_VEC": width,
        "PAB_WARPS": WARPS,
    }
