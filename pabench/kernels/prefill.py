# SPDX-License-Identifier: Apache-2.0
"""Launch plan of ``paged_prefill.cu``, the tensor-core kernel for many query tokens a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from pabench.device.base import Device, DeviceLimits, Launch
from pabench.device.occupancy import blocks_by_registers, blocks_by_shared
from pabench.errors import InvalidCase
from pabench.kernels.decode import MAX_HEAD_DIM
from pabench.kernels.decode_launches import ALIGNMENT, check_alignment
from pabench.kernels.decode_simple import AttentionPlan
from pabench.kernels.features import (
    E4M3_CACHE,
    FEATURED,
    LOG2_E,
    MASK_VARIANTS,
    MASKED,
    MASKED_E4M3,
    PLAIN,
    PLAIN_E4M3,
    variant_arguments,
    variant_of,
)
from pabench.kernels.fitted import PLAN_THREADS, cached_bytes_of, fitted_instance, fitted_instances
from pabench.kernels.instance import KernelEntry, KernelInstance, kernel_source
from pabench.kernels.mask_bits import WORD_BITS, MaskBits
from pabench.problem.case import Case
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem

FILE = "paged_prefill.cu"
PLAN, PREFILL = "paged_prefill_plan", "paged_prefill"
TILE_ROWS = 16
"""Packed rows (query tokens x heads of a group) of a matrix instruction."""
WORK_BYTES = 80
"""``kWorkBytes`` of the kernel file."""
SEEN_BYTES = 16
"""``sizeof(Seen)``, of each warp."""
PLAN_SHARED_BYTES = 32 * 8 + 256 * 4
LIVE_WORDS = 4
"""32-bit words of a ``LiveTile`` of ``pab/prefill_live.cuh``."""
OTHER_REGISTERS = {1: 96, 2: 60}
"""Of a lane beside those, by the row tiles of a warp."""
WIDE_TILE_HEAD_DIM = 128
"""Up to here the scores of 64 keys stay in registers beside the output."""
FEW_WARPS, MANY_WARPS = 4, 8
APART_FEATURES = ("head-dim-v", "page-gaps", "kv-strides")
"""How a cache may lie for this kernel, beside keys and values alike."""
VALUE_STEP = 16
"""What lengths of keys and values are multiples of."""
APART_DIMS = ((192, 128),)
"""``head_dim`` and ``head_dim_v`` of published models where they differ: prefill of expanded MLA."""
TWO_TILES = {PLAIN: 128, PLAIN_E4M3: 96, FEATURED: 96, E4M3_CACHE: 96, MASKED: 0, MASKED_E4M3: 0}
"""Up to which length of a value a lane has registers for the outputs of two row tiles, by variant."""
MASK_HEAD_DIM = 128
"""For which the static table has instances with masks; others are alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillShape:
    """Compile-time shape of an instance; none of it changes a bit of the result but ``tile_tokens``.

    Attributes:
        warps: warps of a block.
        tile_tokens: keys of a tile.
        stages: tiles in shared memory.
        row_tiles: 16 packed rows of a warp; with two it reads keys and values half as often.
        value_dim: elements of a value where keys and values lie apart, see ``lies_apart``; None where not.
        masks: whether rows see sets of keys.
    """

    warps: int
    tile_tokens: int
    stages: int
    row_tiles: int = 1
    value_dim: int | None = None
    masks: bool = False

    @property
    def rows(self) -> int:
        """Packed rows of a block."""
        return TILE_ROWS * self.row_tiles * self.warps

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    def shared_bytes(self, head_dim: int, cached_bytes: int = 2) -> int:
        """Return ``sizeof(SharedMemory)`` of the kernel file, which compares both."""
        value_dim = self.value_dim or head_dim
        tokens = cached_bytes * self.stages * self.tile_tokens * (head_dim + value_dim)
        kept = WORK_BYTES + SEEN_BYTES * self.warps + 4 * self.rows if self.row_tiles == 2 else 0
        places = 2 * self.tile_tokens * 8 * (1 if self.value_dim is None else 2)
        live = 4 * LIVE_WORDS * 2 * self.stages if self.masks else 0
        return 2 * self.rows * max(head_dim, value_dim) + tokens + places + kept + live

    def blocks_per_sm(self, head_dim: int, limits: DeviceLimits, cached_bytes: int = 2) -> int:
        """Return how many blocks a multiprocessor holds, by shared memory and registers; 0 when none fits."""
        needed = self.shared_bytes(head_dim, cached_bytes)
        if needed > limits.shared_bytes_per_block:
            return 0
        # outputs, query and scores of a lane, and what everything else takes
        value_dim = self.value_dim or head_dim
        query = head_dim // 4 if self.row_tiles == 1 and head_dim + 2 * value_dim <= 3 * 128 else 0
        sums = self.row_tiles * (value_dim + self.tile_tokens) // 2
        by_registers = blocks_by_registers(self.warps, sums + query + OTHER_REGISTERS[self.row_tiles])
        return max(1, min(blocks_by_shared(limits.shared_bytes_per_sm, needed), by_registers))


def lies_apart(problem: Problem, pool: KvPool) -> bool:
    """Return whether values are of another length than keys, or lie at strides of their own."""
    return problem.head_dim_v is not None or pool.strides("k") != pool.strides("v")


def why_not_apart(case: Case) -> str | None:
    """Return why the kernel cannot read a cache that lies as that of ``case``, or None."""
    problem = case.problem
    if problem.value_dim % VALUE_STEP or problem.value_dim > MAX_HEAD_DIM:
        return f"head_dim_v {problem.value_dim} is not a multiple of {VALUE_STEP} up to {MAX_HEAD_DIM}"
    for elements in (*case.page_gaps, *case.row_gaps, *case.starts):
        if elements * problem.kv_storage.itemsize % ALIGNMENT:
            return f"no gaps of {elements} elements: copies take {ALIGNMENT} bytes at a time"
    return None


def prefill_shape(
    head_dim: int, limits: DeviceLimits, *, rows: int, variant: str = PLAIN, value_dim: int | None = None
) -> PrefillShape:
    """Return the shape for a batch: 128 rows where they fit, most blocks at once, most stages.

    Args:
        head_dim: of the instance; alone it decides on ``tile_tokens``, so that no bit depends on the rest.
        limits: of the device.
        rows: packed rows of a sequence, roughly: a block takes 64 when there are no more.
        variant: one of ``pabench.kernels.features.VARIANTS`` and ``MASK_VARIANTS``.
        value_dim: as of ``PrefillShape``.

    Raises:
        InvalidCase: no shape fits the shared memory of a block.
    """
    tile = 64 if max(head_dim, value_dim or 0) <= WIDE_TILE_HEAD_DIM else 32
    # the second place of a token takes what the largest outputs leave beside the scores of 64 keys
    most = TWO_TILES[variant] if value_dim is None or tile == 32 else min(TWO_TILES[variant], 64)
    two_tiles = (value_dim or head_dim) <= most
    few, many = (FEW_WARPS, 1), (FEW_WARPS, 2) if two_tiles else (MANY_WARPS, 1)
    for warps, tiles in (many, few) if rows > TILE_ROWS * FEW_WARPS else (few,):
        shapes = [
            PrefillShape(
                warps=warps,
                tile_tokens=tile,
                stages=stages,
                row_tiles=tiles,
                value_dim=value_dim,
                masks=variant in MASK_VARIANTS,
            )
            for stages in (3, 2)
        ]
        cached_bytes = cached_bytes_of(variant)
        best = max(shapes, key=lambda shape: shape.blocks_per_sm(head_dim, limits, cached_bytes))
        if best.blocks_per_sm(head_dim, limits, cached_bytes):
            return best
    rule = f"needs more shared memory than a block has here, {limits.shared_bytes_per_block} bytes"
    raise InvalidCase("head_dim", head_dim, rule)


def prefill_instance(
    head_dim: int, dtype: str, shape: PrefillShape, blocks: int, variant: str = PLAIN
) -> KernelInstance:
    """Return the instance of one head dimension, storage type and shape, ``blocks`` to a multiprocessor.

    ``variant`` is one of ``pabench.kernels.features.VARIANTS`` and ``MASK_VARIANTS``.
    """
    words = f"{shape.rows} rows {shape.tile_tokens} keys {shape.stages} stages"
    return fitted_instance(
        FILE,
        words if shape.value_dim is None else f"head_dim_v {shape.value_dim} {words}",
        head_dim=head_dim,
        dtype=dtype,
        variant=variant,
        shape=shape,
        blocks=blocks,
        plan=KernelEntry(name=PLAN, threads=PLAN_THREADS, shared_bytes=PLAN_SHARED_BYTES),
        attention=PREFILL,
        PAB_TILE=shape.tile_tokens,
        PAB_ROW_TILES=shape.row_tiles,
        **({} if shape.value_dim is None else {"PAB_HEAD_DIM_V": shape.value_dim}),
    )


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table, each for the architectures whose devices take it."""

    def shapes(
        head_dim: int, limits: DeviceLimits, variant: str, value_dim: int | None = None
    ) -> Iterator[PrefillShape]:
        for rows in (1, 128):
            yield prefill_shape(head_dim, limits, rows=rows, variant=variant, value_dim=value_dim)

    yield from fitted_instances(shapes, prefill_instance)
    for head_dim, value_dim in APART_DIMS:
        yield from fitted_instances(partial(shapes, value_dim=value_dim), prefill_instance, (head_dim,))
    yield from fitted_instances(shapes, prefill_instance, (MASK_HEAD_DIM,), tuple(MASK_VARIANTS))


def plan_prefill(
    device: Device,
    problem: Problem,
    *,
    q: Any,
    pool: KvPool,
    block_table: Any,
    kv_lens: Any,
    qo_indptr: Any,
    shape: PrefillShape | None = None,
    min_query_len: int = 0,
    mean_query_len: int | None = None,
    mask: MaskBits | None = None,
    beside: AttentionPlan | None = None,
) -> AttentionPlan:
    """Return two launches: a plan, made on the device from the lengths of that moment, and the attention.

    With ``mask`` there is one before them, in which the plan lists the tiles that each block of rows sees.
    Everything may change in place between two runs, lengths, query lengths and mask too, within the given
    shapes.

    Args:
        device: where the arrays lie.
        problem: what is asked; with any feature but a causal flag another instance is compiled.
        q: ``(num_query_tokens, num_qo_heads, head_dim)`` on the device.
        pool: the cache on the device.
        block_table: ``(num_seqs, max_pages) int32`` on the device.
        kv_lens: ``(num_seqs,) int32`` on the device.
        qo_indptr: ``(num_seqs + 1,) int32`` on the device; query rows of each sequence.
        shape: of the instance; None chooses by the device and the mean query length.
        min_query_len: sequences with fewer query tokens are left alone, and their rows as they are.
        mean_query_len: of the others; None for all query tokens over all sequences.
        mask: the keys of each row; None when causal flag and window of ``problem`` say it.
        beside: the call that does what is left alone; its output and LSE are written.

    Raises:
        InvalidCase: an array that does not start at a multiple of 16 bytes, or 2^31 packed rows and more.
    """
    if mask is not None:
        problem = replace(problem, causal=False, window=None)
    head_dim, apart = problem.head_dim, lies_apart(problem, pool)
    check_alignment(q, pool)
    variant = variant_of(problem)
    if mask is not None:
        variant = MASKED if problem.kv_dtype is None else MASKED_E4M3
    value_dim = problem.value_dim if apart else None
    if shape is None:
        mean_rows = _mean_rows(problem, q, block_table, mean_query_len)
        shape = prefill_shape(head_dim, device.limits, rows=mean_rows, variant=variant, value_dim=value_dim)
    shape = replace(shape, value_dim=value_dim, masks=mask is not None)
    per_sm = max(1, shape.blocks_per_sm(head_dim, device.limits, problem.kv_storage.itemsize))
    return plan_rows(
        device,
        problem,
        prefill_instance(head_dim, problem.dtype, shape, per_sm, variant),
        shape.rows,
        q=q,
        pool=pool,
        block_table=block_table,
        kv_lens=kv_lens,
        qo_indptr=qo_indptr,
        min_query_len=min_query_len,
        mask=mask,
        beside=beside,
    )


def _mean_rows(problem: Problem, q: Any, block_table: Any, mean_query_len: int | None) -> int:
    if mean_query_len is not None:
        return mean_query_len * problem.group_size
    return int(q.shape[0] * problem.group_size // max(1, block_table.shape[0]))


def plan_rows(
    device: Device,
    problem: Problem,
    instance: KernelInstance,
    rows: int,
    *,
    q: Any,
    pool: KvPool,
    block_table: Any,
    kv_lens: Any,
    qo_indptr: Any,
    min_query_len: int = 0,
    mask: MaskBits | None = None,
    beside: AttentionPlan | None = None,
    maps: tuple[Any, ...] = (),
) -> AttentionPlan:
    """Return the launches of an instance of this kernel or of another with the same arguments.

    Args:
        device: where the arrays lie; they are as of ``plan_prefill``.
        problem: what is asked.
        instance: its entries are the kernel that plans and the one that attends.
        rows: packed rows of a block.
        q, pool, block_table, kv_lens, qo_indptr, min_query_len, mask, beside: see ``plan_prefill``.
        maps: arguments of the kernel that attends, behind the scale.

    Raises:
        InvalidCase: 2^31 packed rows and more.
    """
    num_seqs, max_pages = block_table.shape
    packed_rows = q.shape[0] * problem.group_size
    if packed_rows >= 2**31:
        raise InvalidCase("query tokens x heads of a group", packed_rows, "must be below 2^31")
    more = variant_arguments(device, problem, instance.defines)
    # the most that lengths within the shapes make: each sequence rounds up once
    row_blocks = packed_rows // rows + num_seqs
    whole = np.dtype(np.int32)
    if beside is None:
        out = device.empty((*q.shape[:2], problem.value_dim), problem.storage.storage)
        lse = device.empty(tuple(q.shape[:2]), np.dtype(np.float32))
    else:
        out, lse = beside.out, beside.lse
    starts = device.empty((num_seqs + 1,), whole)
    order = device.empty((max(1, row_blocks), 2), whole)
    causal = np.int32(problem.causal)
    apart = "PAB_HEAD_DIM_V" in instance.defines
    strides = [np.int64(stride) for kind in ("kv" if apart else "k") for stride in pool.strides(kind)]
    k, v = pool.k, pool.v
    first, second = instance.entries
    words: tuple[Any, ...] = ()
    lists: tuple[Any, ...] = ()
    if mask is not None:
        words = mask.words, np.int32(mask.words_per_row)
        most = max(1, row_blocks)
        per_block = -(-mask.words_per_row // (int(instance.defines["PAB_TILE"]) // WORD_BITS))
        lists = (
            device.empty((most, per_block, LIVE_WORDS), np.dtype(np.uint32)),
            device.empty((most,), whole),
        )
    plan = Launch(
        entry=first.name,
        grid=(1, 1, 1),
        block=(first.threads, 1, 1),
        shared_bytes=first.shared_bytes,
        args=(
            *(kv_lens, qo_indptr, starts, order),
            *(np.int32(num_seqs), np.int32(problem.num_kv_heads), np.int32(problem.group_size)),
            *(np.int32(min_query_len), causal),
            *(*more, *words, *lists, *((np.int32(0),) if lists else ())),
        ),
    )
    prefill = Launch(
        entry=second.name,
        grid=(row_blocks * problem.num_kv_heads, 1, 1),
        block=(second.threads, 1, 1),
        shared_bytes=second.shared_bytes,
        args=(
            *(q, k, v, block_table, kv_lens, qo_indptr, out, lse, starts, order),
            *(np.int32(num_seqs), np.int32(problem.num_qo_heads), np.int32(problem.num_kv_heads)),
            *(np.int32(problem.page_size), np.int32(max_pages), causal),
            *strides,
            np.float32(problem.scale * LOG2_E),
            *maps,
            *(*more, *words, *lists),
        ),
    )
    source = kernel_source(device, instance.file, **instance.defines)
    if len(instance.architectures) == 1:
        source = replace(source, architecture=min(instance.architectures))
    module = device.load(source)
    launches = (plan, prefill) if row_blocks else ()
    if mask is not None and row_blocks:
        # the same kernel lists before it orders: a block for each block of rows
        listing = replace(plan, grid=(row_blocks, 1, 1), args=(*plan.args[:-1], np.int32(1)))
        launches = (listing, *launches)
    planning = len(launches[:-1])
    return AttentionPlan(module=module, launches=launches, planning=planning, q=q, k=k, v=v, out=out, lse=lse)
