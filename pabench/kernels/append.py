# SPDX-License-Identifier: Apache-2.0
"""Launch plans of ``kv_append.cu``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from pabench.device.base import Device, Launch
from pabench.kernels.instance import (
    THREADS,
    WARPS,
    KernelEntry,
    KernelInstance,
    kernel_source,
    shape_defines,
    shaped_instances,
    vector_width,
)
from pabench.kernels.row_formats import TABLE_HEAD_DIM, row_arguments_of
from pabench.problem.dtypes import E4M3, INT8, Array, DType
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem

FILE = "kv_append.cu"
BY_SLOT, BY_TABLE = "kv_append", "kv_append_paged"
VARIANTS = {
    "": {"PAB_E4M3": 0},
    " into e4m3": {"PAB_E4M3": 1},
    " into rows of any format": {"PAB_E4M3": 0, "PAB_ALONE": 1, "PAB_ROWS": 1},
}


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table."""
    entries = tuple(KernelEntry(name=name, threads=THREADS) for name in (BY_SLOT, BY_TABLE))
    for label, defines, head_dim in shaped_instances():
        for words, more in VARIANTS.items():
            if "PAB_ROWS" in more and (head_dim, defines["PAB_VEC"]) != (TABLE_HEAD_DIM, 1):
                continue
            yield KernelInstance(file=FILE, label=label + words, defines=defines | more, entries=entries)


def append_tokens(
    device: Device,
    dtype: DType,
    *,
    pool: KvPool,
    keys: Any,
    values: Any,
    slot_mapping: Any,
    page_size: int,
    scales: Any | None = None,
    form: Problem | None = None,
) -> None:
    """Write tokens into ``pool`` on the device, each into its slot.

    Args:
        device: where all arrays lie.
        dtype: storage type of the tokens.
        pool: the cache, written in place; stored as ``dtype``, or as e4m3 with ``scales``.
        keys: ``(num_tokens, num_kv_heads, head_dim)``.
        values: like ``keys``.
        slot_mapping: ``(num_tokens,) int64``; negative entries are skipped.
        page_size: tokens of one page.
        scales: ``append_scales`` on the device for a cache of e4m3, else None.
        form: the problem of a cache whose rows have another format, else None.
    """
    num_tokens, num_kv_heads, _ = keys.shape
    _launch(
        device,
        dtype,
        BY_SLOT,
        keys=keys,
        values=values,
        pool=pool,
        where=(slot_mapping,),
        counts=(num_tokens, num_kv_heads, page_size),
        scales=scales,
        form=form,
    )


def append_to_sequences(
    device: Device,
    dtype: DType,
    *,
    pool: KvPool,
    keys: Any,
    values: Any,
    block_table: Any,
    kv_lens: Any,
    qo_indptr: Any,
    page_size: int,
    scales: Any | None = None,
    form: Problem | None = None,
) -> None:
    """Write tokens into ``pool`` on the device, each where the block table has its place.

    Args:
        device: where all arrays lie.
        dtype: storage type of the tokens.
        pool: as ``append_tokens`` has it.
        keys: ``(num_tokens, num_kv_heads, head_dim)``, sequence by sequence.
        values: like ``keys``.
        block_table: ``(num_seqs, max_pages) int32``; a token of a negative page is skipped.
        kv_lens: ``(num_seqs,) int32``, new tokens included; they are the last ones.
        qo_indptr: ``(num_seqs + 1,) int32``, first token of each sequence.
        page_size: tokens of one page.
        scales, form: as ``append_tokens`` has them.
    """
    num_tokens, num_kv_heads, _ = keys.shape
    num_seqs, max_pages = block_table.shape
    _launch(
        device,
        dtype,
        BY_TABLE,
        keys=keys,
        values=values,
        pool=pool,
        where=(block_table, kv_lens, qo_indptr),
        counts=(num_tokens, num_seqs, num_kv_heads, page_size, max_pages),
        scales=scales,
        form=form,
    )


def append_scales(problem: Problem) -> Array:
    """Return what keys and values of each head are divided by, float32 ``(2, num_kv_heads)``."""
    return np.asarray([problem.kv_scales("k"), problem.kv_scales("v")], dtype=np.float32)


def _launch(
    device: Device,
    dtype: DType,
    entry: str,
    *,
    keys: Any,
    values: Any,
    pool: KvPool,
    where: tuple[Any, ...],
    counts: tuple[int, ...],
    scales: Any | None,
    form: Problem | None,
) -> None:
    """Write keys and values at once where they are alike, else one after the other, or keys alone."""
    if keys.shape[0] == 0:
        return
    latent = pool.parts is not None and pool.parts.latent
    alike = keys.shape == values.shape and pool.strides("k") == pool.strides("v")
    numbers = tuple(np.int32(count) for count in counts)
    if alike and not latent and form is None:
        more = () if scales is None else (scales,)
        sources, stored = (keys, values), dtype if scales is None else E4M3
        _launch_one(
            device, dtype, entry, sources, where, (pool.k, pool.v), numbers, pool.strides("k"), more, stored
        )
        return
    sides = (("k", keys, pool.k), ("v", values, pool.v))
    for side, (kind, rows, cache) in enumerate(sides[: 1 if latent else 2]):
        if form is not None:
            own = device.to_device(append_scales(form)[side])
            more, stored = (own, *row_arguments_of(form, kind)), INT8
        elif scales is not None:
            more, stored = (scales[[side, side]],), E4M3
        else:
            more, stored = (), dtype
        _launch_one(
            device,
            dtype,
            entry,
            (rows, rows),
            where,
            (cache, cache),
            numbers,
            pool.strides(kind),
            more,
            stored,
            alone=True,
        )


def _launch_one(
    device: Device,
    dtype: DType,
    entry: str,
    sources: tuple[Any, Any],
    where: tuple[Any, ...],
    caches: tuple[Any, Any],
    counts: tuple[Any, ...],
    strides: tuple[int, int, int],
    more: tuple[Any, ...],
    stored: DType,
    *,
    alone: bool = False,
) -> None:
    """Write tokens into caches stored as ``stored``: e4m3, bytes of rows (int8), or the tokens' type."""
    num_tokens, _, head_dim = sources[0].shape
    if stored is INT8:
        width = 1
    else:
        # one width for both sides, so that a load of a token is one store
        apart = math.gcd(head_dim, *strides)
        width = min(vector_width(head_dim, dtype, *sources), vector_width(apart, stored, *caches))
    defines = {**shape_defines(head_dim, dtype, width), "PAB_E4M3": int(stored is E4M3)}
    if alone:
        defines["PAB_ALONE"] = 1
    if stored is INT8:
        defines["PAB_ROWS"] = 1
    launch = Launch(
        entry=entry,
        grid=(-(-num_tokens // WARPS), 1, 1),
        block=(THREADS, 1, 1),
        args=(
            *(*sources, *where, *caches),
            *counts,
            *(np.int64(stride) for stride in strides),
            *more,
        ),
    )
    device.load(kernel_source(device, FILE, **defines)).launch(launch)
