"""Launch plans of ``kv_append.cu``."""

from __future__ import annotations

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
from pabench.problem.dtypes import E4M3, Array, DType
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem

FILE = "kv_append.cu"
BY_SLOT, BY_TABLE = "kv_append", "kv_append_paged"


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table."""
    entries = tuple(KernelEntry(name=name, threads=THREADS) for name in (BY_SLOT, BY_TABLE))
    for label, defines, _ in shaped_instances():
        for words, e4m3 in (("", 0), (" into e4m3", 1)):
            yield KernelInstance(
                file=FILE, label=label + words, defines={**defines, "PAB_E4M3": e4m3}, entries=entries
            )


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
        scales: as ``append_tokens`` has it.
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
) -> None:
    num_tokens, _, head_dim = keys.shape
    if num_tokens == 0:
        return
    # one width for both sides, so that a load of a token is one store
    stored = dtype if scales is None else E4M3
    width = min(vector_width(head_dim, dtype, keys, values), vector_width(head_dim, stored, pool.k, pool.v))
    source = kernel_source(
        device,
        FILE,
        **shape_defines(head_dim, dtype, width),
        PAB_E4M3=int(scales is not None),
    )
    launch = Launch(
        entry=entry,
        grid=(-(-num_tokens // WARPS), 1, 1),
        block=(THREADS, 1, 1),
        args=(
            *(keys, values, *where, pool.k, pool.v),
            *(np.int32(count) for count in counts),
            *(np.int64(stride) for stride in pool.element_strides),
            *(() if scales is None else (scales,)),
        ),
    )
    device.load(source).launch(launch)
