# SPDX-License-Identifier: Apache-2.0
"""The two launches of a tensor-core decode kernel, a plan and the attention, and their workspace."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np

from pabench.device.base import Device, Launch
from pabench.errors import InvalidCase
from pabench.kernels.decode_simple import AttentionPlan
from pabench.kernels.features import LOG2_E, variant_arguments
from pabench.kernels.instance import KernelInstance, address_of, kernel_source
from pabench.kernels.key_lists import KeyLists
from pabench.problem.formats.format import ALIGNMENT as ROW_ALIGNMENT
from pabench.problem.layout import pages_needed
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem

ALIGNMENT = 16
"""Bytes of one asynchronous copy; queries, cache and output start at a multiple."""
FEW_SHARES = 4
"""With as many for each KV head, or more, division leaves over less than a fifth of the blocks: let be."""


def decode_launches(
    device: Device,
    problem: Problem,
    instance: KernelInstance,
    *,
    unit_rows: int,
    tile_tokens: int,
    blocks: int,
    split_tokens: int,
    max_query_len: int,
    q: Any,
    pool: KvPool,
    block_table: Any,
    kv_lens: Any,
    qo_indptr: Any,
    lists: KeyLists | None = None,
) -> AttentionPlan:
    """Return the launches of ``instance``, whose entries are the kernel that plans and the one that attends.

    Args:
        device: where the arrays lie.
        problem: what is asked.
        instance: of the variant that the problem needs.
        unit_rows: packed rows of a unit, query tokens x heads of a group.
        tile_tokens: tokens of a tile.
        blocks: of the persistent grid; what is launched is ``shares_of`` it for each KV head.
        split_tokens: as of ``plan_decode`` in ``decode``; so are the arguments that follow.
        max_query_len: sequences with more query tokens are left alone.
        q: queries on the device.
        pool: the cache on the device.
        block_table: on the device.
        kv_lens: on the device.
        qo_indptr: on the device.
        lists: of an instance with key lists; causal flag and window of ``problem`` are then in them.

    Raises:
        InvalidCase: a ``split_tokens`` that is no multiple of the tile.
    """
    if split_tokens % tile_tokens:
        raise InvalidCase("split_tokens", split_tokens, f"must be a multiple of the tile, {tile_tokens}")
    planning, attending = instance.entries
    if lists is not None:
        problem = replace(problem, causal=False, window=None)
    more = variant_arguments(device, problem, instance.defines)
    more += () if lists is None else lists.arguments
    num_seqs, max_pages = block_table.shape
    shares = shares_of(blocks, problem.num_kv_heads)
    grid = shares * problem.num_kv_heads
    rows = min(q.shape[0], num_seqs * max_query_len)  # a long prompt that is left alone needs no room
    # the most partial results, and meeting places of pieces, that lengths within the shapes need
    slots, meetings = 2 * grid, grid
    if split_tokens:
        row_blocks = rows * problem.group_size // unit_rows + num_seqs
        pieces = max(1, pages_needed(max_pages * problem.page_size, split_tokens))
        slots = meetings = row_blocks * problem.num_kv_heads * pieces
    single = np.dtype(np.float32)
    out = device.empty((*q.shape[:2], problem.value_dim), problem.storage.storage)
    lse = device.empty(tuple(q.shape[:2]), single)
    line = device.empty((num_seqs + 1,), np.dtype(np.int64))
    first = device.empty((shares,), np.dtype(np.int32))
    arrivals = device.empty((meetings,), np.dtype(np.uint32))
    partial_out = device.empty((slots, unit_rows, problem.value_dim), single)
    partial_max = device.empty((slots, unit_rows), single)
    partial_sum = device.empty((slots, unit_rows), single)
    split_tiles = np.int32(split_tokens // tile_tokens)
    heads = (np.int32(problem.num_qo_heads), np.int32(problem.num_kv_heads))
    k, v = pool.k, pool.v
    plan = Launch(
        entry=planning.name,
        grid=(1, 1, 1),
        block=(planning.threads, 1, 1),
        shared_bytes=planning.shared_bytes,
        args=(
            *(kv_lens, qo_indptr, line, first, arrivals),
            *(np.int32(num_seqs), heads[1], np.int32(problem.group_size), split_tiles),
            *(np.int32(shares), np.int32(meetings), np.int32(max_query_len)),
            *more,
        ),
    )
    decode = Launch(
        entry=attending.name,
        grid=(grid, 1, 1),
        block=(attending.threads, 1, 1),
        shared_bytes=attending.shared_bytes,
        args=(
            *((q, k) if problem.latent else (q, k, v)),
            *(block_table, kv_lens, qo_indptr, out, lse),
            *(line, first, arrivals, partial_out, partial_max, partial_sum),
            *(np.int32(num_seqs), *heads, np.int32(problem.page_size), np.int32(max_pages)),
            *(split_tiles, np.int32(max_query_len), np.int32(problem.causal)),
            *(np.int64(stride) for stride in pool.element_strides),
            np.float32(problem.scale * LOG2_E),
            *more,
        ),
    )
    module = device.load(kernel_source(device, instance.file, **instance.defines))
    return AttentionPlan(module=module, launches=(plan, decode), planning=1, q=q, k=k, v=v, out=out, lse=lse)


def shares_of(blocks: int, num_kv_heads: int) -> int:
    """Return into how many shares the work of one KV head is cut, each of which is a block's.

    As many as the resident ``blocks`` hold of all heads; of fewer than four, which may leave much of the
    device idle, the number whose turns are done soonest, and of equals the largest.
    """
    shares = blocks // num_kv_heads
    if shares >= FEW_SHARES:
        return shares
    # no block waits for another, so that blocks beyond the resident ones take further turns
    return min(range(min(FEW_SHARES, blocks), 0, -1), key=lambda few: ceil(few * num_kv_heads / blocks) / few)


def check_alignment(q: Any, pool: KvPool) -> None:
    """Raise ``InvalidCase`` when an array does not start at a multiple of an asynchronous copy's bytes.

    Rows that hold their scales, which are of another length than a query's, are copied 4 bytes at a time.
    """
    cached = ALIGNMENT if pool.k.shape[-1] == q.shape[-1] else ROW_ALIGNMENT
    for field, array, multiple in (("q", q, ALIGNMENT), ("keys", pool.k, cached), ("values", pool.v, cached)):
        if address_of(array) % multiple:
            rule = f"must be a multiple of {multiple} bytes"
            raise InvalidCase(f"address of {field}", address_of(array), rule)
