# SPDX-License-Identifier: Apache-2.0
"""Launch plan of ``paged_decode_simple.cu``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pabench.device.base import Device, Launch, Module
from pabench.kernels.features import (
    E4M3_CACHE,
    FEATURED,
    LOG2_E,
    PLAIN,
    PLAIN_E4M3,
    ROW_CACHE,
    ROW_VARIANTS,
    VARIANTS,
    feature_arguments,
    variant_of,
)
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
from pabench.kernels.mask_bits import MaskBits
from pabench.kernels.row_formats import TABLE_HEAD_DIM, row_arguments, row_width
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.problem.scales import Scales

FILE = "paged_decode_simple.cu"
DECODE, MERGE = "paged_decode_simple", "paged_decode_merge"
TILE_TOKENS = 32
SPLIT_TOKENS = 512
"""Keys worth a warp of their own; fewer and the merge costs more than it gains."""
MAX_SPLITS = 32
WARPS_WANTED = 2048
"""Enough warps to fill a large GPU; no split beyond that."""
SIMPLE_VARIANTS = {words: more for words, more in (VARIANTS | ROW_VARIANTS).items() if words != PLAIN_E4M3}
"""Of this kernel, which reads no cache of e4m3 without its features."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionPlan:
    """Device arrays and launches of one attention call.

    Attributes:
        module: of the kernels.
        launches: in their order.
        q, k, v: what the launches read that differs between the layers of a model.
        out, lse: what they write, one a layer too.
        planning: how many launches, from the first on, only plan: they serve all layers.
    """

    module: Module
    launches: tuple[Launch, ...]
    q: Any
    k: Any
    v: Any
    out: Any
    lse: Any
    planning: int = 0


def split_count(kv_lens: Sequence[int], num_qo_heads: int, *, num_query_tokens: int | None = None) -> int:
    """Return how many warps share the keys of one query row and head; a row a sequence unless said."""
    rows = (len(kv_lens) if num_query_tokens is None else num_query_tokens) * num_qo_heads
    by_length = -(-max(kv_lens, default=0) // SPLIT_TOKENS)
    by_warps = -(-WARPS_WANTED // max(rows, 1))
    return max(1, min(by_length, by_warps, MAX_SPLITS))


def shared_bytes(head_dim: int) -> int:
    """Return the dynamic shared memory of a block: ``sizeof(WarpMemory)`` times its warps."""
    return WARPS * 16 * (-(-4 * head_dim // 16) + TILE_TOKENS)


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table."""
    for label, defines, head_dim in shaped_instances():
        entries = (
            KernelEntry(name=DECODE, threads=THREADS, shared_bytes=shared_bytes(head_dim)),
            KernelEntry(name=MERGE, threads=THREADS),
        )
        for words, more in SIMPLE_VARIANTS.items():
            asked = head_dim == TABLE_HEAD_DIM and defines["PAB_VEC"] == row_width(head_dim)
            if words == ROW_CACHE and not asked:
                continue
            more = {"PAB_HEAD_DIM_V": head_dim, "PAB_MASK": 0, **more}
            yield KernelInstance(file=FILE, label=label + words, defines=defines | more, entries=entries)


def plan_decode(
    device: Device,
    problem: Problem,
    *,
    q: Any,
    pool: KvPool,
    block_table: Any,
    kv_lens: Any,
    num_splits: int,
    qo_indptr: Any | None = None,
    mask: MaskBits | None = None,
    lse_base: str = "e",
    scales: Scales = (),
) -> AttentionPlan:
    """Return the launches for one call.

    Args:
        device: where the arrays lie.
        problem: what is asked; with any feature, or with ``qo_indptr``, another instance is compiled.
        q: ``(num_query_tokens, num_qo_heads, head_dim)`` on the device.
        pool: the cache on the device.
        block_table: ``(num_seqs, max_pages) int32`` on the device.
        kv_lens: ``(num_seqs,) int32`` on the device.
        num_splits: warps that share the keys of one query row and head, at least 1.
        qo_indptr: ``(num_seqs + 1,) int32`` on the device; None when each sequence has one query token.
        mask: the keys of each row; None when causal flag and window of ``problem`` say it.
        lse_base: of the LSE, ``e`` or ``2``.
        scales: those of each sequence, see ``Case``.
    """
    num_seqs, max_pages = block_table.shape
    num_tokens, heads, head_dim = q.shape
    rows = num_tokens * heads
    if mask is not None:
        problem = replace(problem, causal=False, window=None)
    variant = variant_of(problem)
    if variant not in SIMPLE_VARIANTS:
        variant = E4M3_CACHE
    if variant == PLAIN and (qo_indptr is not None or mask is not None or problem.q_dtype):
        variant = FEATURED
    more: tuple[Any, ...] = ()
    if variant != PLAIN:
        if qo_indptr is None:
            qo_indptr = device.to_device(np.arange(num_seqs + 1, dtype=np.int32))
        more = (
            qo_indptr,
            np.int32(num_seqs),
            np.int32(problem.causal),
            *feature_arguments(device, problem, scales, num_seqs),
        )
        more += () if mask is None else mask.arguments
    rows_of = row_arguments(problem) if variant == ROW_CACHE else ()
    # one width for all, so that a load of keys meets as many numbers of the query
    apart = math.gcd(head_dim, problem.value_dim, *pool.strides("k"), *pool.strides("v"))
    width = (
        row_width(head_dim, problem.value_dim)
        if rows_of
        else min(
            vector_width(head_dim, problem.storage, q),
            vector_width(apart, problem.kv_storage, pool.k, pool.v),
        )
    )
    source = kernel_source(
        device,
        FILE,
        **shape_defines(head_dim, problem.storage, width),
        PAB_HEAD_DIM_V=problem.value_dim,
        PAB_MASK=int(mask is not None),
        **SIMPLE_VARIANTS[variant],
        **({"PAB_LSE_BASE_2": 1} if lse_base == "2" else {}),
        **({"PAB_Q_E4M3": 1} if problem.q_dtype else {}),
        **({"PAB_SEQUENCE_SCALES": 1} if scales else {}),
    )
    single = np.dtype(np.float32)
    out = device.empty((num_tokens, heads, problem.value_dim), problem.storage.storage)
    lse = device.empty((num_tokens, heads), single)
    parts = rows * num_splits if num_splits > 1 else 1
    partial_out = device.empty((parts, problem.value_dim), single)
    partial_max = device.empty((parts,), single)
    partial_sum = device.empty((parts,), single)
    k, v = pool.k, pool.v
    decode = Launch(
        entry=DECODE,
        grid=(-(-rows * num_splits // WARPS), 1, 1),
        block=(THREADS, 1, 1),
        shared_bytes=shared_bytes(head_dim),
        args=(
            *(q, k, v, block_table, kv_lens, out, lse, partial_out, partial_max, partial_sum),
            *(np.int32(rows), np.int32(heads), np.int32(problem.group_size), np.int32(problem.page_size)),
            *(np.int32(max_pages), np.int32(num_splits)),
            *(np.int64(stride) for kind in "kv" for stride in pool.strides(kind)),
            np.float32(problem.scale * LOG2_E),
            *more,
            *rows_of,
        ),
    )
    merge = Launch(
        entry=MERGE,
        grid=(-(-rows // WARPS), 1, 1),
        block=(THREADS, 1, 1),
        args=(
            *(partial_out, partial_max, partial_sum, kv_lens, out, lse),
            *(np.int32(rows), np.int32(heads), np.int32(num_splits)),
            *more,
        ),
    )
    launches = (decode, merge) if num_splits > 1 else (decode,)
    module = device.load(source)
    return AttentionPlan(module=module, launches=launches if rows else (), q=q, k=k, v=v, out=out, lse=lse)
