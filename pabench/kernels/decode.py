# SPDX-License-Identifier: Apache-2.0
"""Launch plan of ``paged_decode.cu``, the tensor-core kernel."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.device.base import Device, DeviceLimits, Launch
from pabench.device.occupancy import blocks_by_registers, blocks_by_shared
from pabench.errors import InvalidCase
from pabench.kernels.decode_launches import check_alignment, decode_launches
from pabench.kernels.decode_simple import AttentionPlan
from pabench.kernels.features import LIST_VARIANTS, PLAIN, TILE_ROW_VARIANTS, VARIANTS, tile_variant_of
from pabench.kernels.fitted import (
    DTYPES,
    KNOWN_VARIANTS,
    PLAN_THREADS,
    cached_bytes_of,
    fitted_instance,
    fitted_instances,
)
from pabench.kernels.instance import KernelEntry, KernelInstance
from pabench.kernels.key_lists import KeyLists
from pabench.kernels.row_formats import TABLE_HEAD_DIM, TILE_ROWS, takes_rows
from pabench.problem.checks import INT32_MAX
from pabench.problem.dtypes import dtype_by_name
from pabench.problem.formats import FORMATS
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem

FILE = "paged_decode.cu"
PLAN, DECODE = "paged_decode_plan", "paged_decode"
HEAD_DIM_STEP = 16
MAX_HEAD_DIM = 256
UNIT_ROWS = 16
"""Rows of a unit: query tokens x heads of a group."""
WORK_BYTES, WALK_BYTES = 56, 128
"""``sizeof(Work)`` and ``sizeof(Walk)`` of ``pab/decode_line.cuh``."""
LISTED_WORK_BYTES, LISTED_WALK_BYTES = 64, 144
"""Likewise of instances with key lists."""
PLAN_SHARED_BYTES = 32 * 8
MAX_BLOCKS_PER_SM = 4
OTHER_REGISTERS, ROW_REGISTERS = 72, 24
"""Beside output and query of a lane, and what rows that hold their scales take more."""


def works_bytes(stages: int, *, lists: bool) -> int:
    """Return the bytes of the tiles between being found and their end, and of the walk, in shared memory."""
    if lists:
        return (stages + 3) * LISTED_WORK_BYTES + LISTED_WALK_BYTES
    return (stages + 2) * WORK_BYTES + WALK_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeShape:
    """Compile-time shape of an instance.

    Attributes:
        warps: warps of a block; a tile is 16 tokens each.
        stages: tiles in shared memory.
        lists: whether it attends to the keys of lists.
        rows: name of the format of ``TILE_ROWS`` of the cache; empty where it holds elements.
    """

    warps: int
    stages: int
    lists: bool = False
    rows: str = ""

    @property
    def tile_tokens(self) -> int:
        """Tokens of a tile."""
        return 16 * self.warps

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    def tile_bytes(self, head_dim: int, cached_bytes: int = 2) -> int:
        """Return the bytes of a tile's keys, values and scales, of ``cached_bytes`` an element."""
        row = cached_bytes * head_dim
        if self.rows:
            form, dim = FORMATS[self.rows], self._tile_dim(head_dim)
            row = form.row_units(head_dim) - form.scales_at(head_dim) + form.scales_at(dim)
        return 2 * self.tile_tokens * row

    def _bits(self, cached_bytes: int) -> int:
        """Return the bits of a number of the cache."""
        return FORMATS[self.rows].bits if self.rows else 8 * cached_bytes

    def _tile_dim(self, head_dim: int, cached_bytes: int = 1) -> int:
        """Return the numbers of a row in shared memory: whole chunks."""
        return -(-head_dim // 32) * 32 if self._bits(cached_bytes) == 4 else head_dim

    def shared_bytes(self, head_dim: int, cached_bytes: int = 2) -> int:
        """Return ``sizeof(SharedMemory)`` of the kernel file, which compares both."""
        dim = self._tile_dim(head_dim, cached_bytes)
        steps = dim // HEAD_DIM_STEP
        # at the end of a piece the output, float32, takes the place of tokens, in passes where it is larger
        passed = {16: steps, 8: -(-steps // 2), 4: max(2, steps // 8 * 2)}[self._bits(cached_bytes)]
        output = 4 * self.warps * UNIT_ROWS * HEAD_DIM_STEP * passed
        tile = max(self.tile_bytes(head_dim, cached_bytes), output)
        queries = self.stages * UNIT_ROWS * dim * 2
        rows = 2 * self.tile_tokens * 8
        works = works_bytes(self.stages, lists=self.lists)
        states = 2 * self.warps * UNIT_ROWS * 4
        return self.stages * tile + queries + rows + works + states + 8

    def blocks_per_sm(self, head_dim: int, limits: DeviceLimits, cached_bytes: int = 2) -> int:
        """Return how many blocks a multiprocessor holds, by shared memory and registers; 0 when none fits."""
        needed = self.shared_bytes(head_dim, cached_bytes)
        if needed > limits.shared_bytes_per_block:
            return 0
        # output and query of a lane, and what everything else takes
        registers = head_dim // 2 + (head_dim // 4 if head_dim <= 128 else 0) + OTHER_REGISTERS
        registers += ROW_REGISTERS if self.rows else 0
        by_registers = blocks_by_registers(self.warps, registers)
        by_shared = blocks_by_shared(limits.shared_bytes_per_sm, needed)
        return max(1, min(by_shared, by_registers, MAX_BLOCKS_PER_SM))


STAGES = {2: (3, 2), 1: (4, 3, 2)}
"""Of a shape, by bytes of a cached element: smaller elements make smaller tiles, so more are on their way."""


def decode_shape(
    head_dim: int, limits: DeviceLimits, cached_bytes: int = 2, *, lists: bool = False, rows: str = ""
) -> DecodeShape:
    """Return the shape with the most bytes on their way to a multiprocessor; of equals, the most blocks.

    Args:
        head_dim: elements of one head's vector.
        limits: of the device.
        cached_bytes: of an element of the cache.
        lists: whether it attends to the keys of lists.
        rows: as of ``DecodeShape``.

    Raises:
        InvalidCase: no shape fits the shared memory of a block.
    """

    def merit(shape: DecodeShape) -> tuple[int, int]:
        blocks = shape.blocks_per_sm(head_dim, limits, cached_bytes)
        return blocks * (shape.stages - 1) * shape.tile_bytes(head_dim, cached_bytes), blocks

    shapes = itertools.product((4, 2), STAGES[cached_bytes])
    best = max(
        (DecodeShape(warps=warps, stages=stages, lists=lists, rows=rows) for warps, stages in shapes),
        key=merit,
    )
    if not best.blocks_per_sm(head_dim, limits, cached_bytes):
        rule = f"needs more shared memory than a block has here, {limits.shared_bytes_per_block} bytes"
        raise InvalidCase("head_dim", head_dim, rule)
    return best


def decode_instance(
    head_dim: int, dtype: str, shape: DecodeShape, blocks: int, variant: str = PLAIN
) -> KernelInstance:
    """Return the instance of one head dimension, storage type and shape, ``blocks`` to a multiprocessor.

    ``variant`` is one of ``pabench.kernels.fitted.KNOWN_VARIANTS``, with lists where the shape has them.
    """
    return fitted_instance(
        FILE,
        f"{shape.warps} warps {shape.stages} stages",
        head_dim=head_dim,
        dtype=dtype,
        variant=variant,
        shape=shape,
        blocks=blocks,
        plan=KernelEntry(name=PLAN, threads=PLAN_THREADS, shared_bytes=PLAN_SHARED_BYTES),
        attention=DECODE,
        turn_tokens=shape.tile_tokens,
    )


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table, each for the architectures whose devices take it."""

    def shapes(head_dim: int, limits: DeviceLimits, variant: str) -> tuple[DecodeShape]:
        macros = KNOWN_VARIANTS[variant]
        number, lists = macros.get("PAB_TILE_ROWS", 0), "PAB_KEY_LISTS" in macros
        rows = TILE_ROWS[number - 1] if number else ""
        return (decode_shape(head_dim, limits, cached_bytes_of(variant), lists=lists, rows=rows),)

    yield from fitted_instances(shapes, decode_instance, variants=(*VARIANTS, *LIST_VARIANTS))
    yield from fitted_instances(shapes, decode_instance, (TABLE_HEAD_DIM,), tuple(TILE_ROW_VARIANTS))


def plan_decode(
    device: Device,
    problem: Problem,
    *,
    q: Any,
    pool: KvPool,
    block_table: Any,
    kv_lens: Any,
    qo_indptr: Any,
    split_tokens: int = 0,
    blocks: int | None = None,
    shape: DecodeShape | None = None,
    max_query_len: int = INT32_MAX,
    lists: KeyLists | None = None,
) -> AttentionPlan:
    """Return two launches: a plan, made on the device from the lengths of that moment, and the attention.

    Everything may change in place between two runs, lengths and query lengths too, within the given shapes.

    Args:
        device: where the arrays lie.
        problem: what is asked; with any feature but a mask another instance is compiled.
        q: ``(num_query_tokens, num_qo_heads, head_dim)`` on the device.
        pool: the cache on the device.
        block_table: ``(num_seqs, max_pages) int32`` on the device.
        kv_lens: ``(num_seqs,) int32`` on the device.
        qo_indptr: ``(num_seqs + 1,) int32`` on the device; query rows of each sequence.
        split_tokens: 0 cuts the work into equal shares; otherwise each sequence is cut after so many tokens,
            a multiple of the tile, and its result does not depend on the rest of the batch.
        blocks: of the persistent grid, rounded down to a multiple of the KV heads; where that is fewer than
            four a head, ``decode_launches.shares_of`` may take more.  None fills the device.
        shape: of the instance; None chooses by the device.
        max_query_len: sequences with more query tokens are left alone, and their rows as they are.
        lists: the keys that rows see; None when causal flag and window of ``problem`` say it.

    Raises:
        InvalidCase: an array that does not start at a multiple of 16 bytes, or of 4 a cache whose rows hold
            their scales; a ``split_tokens`` that is no multiple of the tile.
    """
    head_dim = problem.head_dim
    check_alignment(q, pool)
    cached_bytes = problem.kv_storage.itemsize
    listed = lists is not None
    rows = problem.kv_dtype if problem.kv_dtype and takes_rows(problem) else ""
    shape = shape or decode_shape(head_dim, device.limits, cached_bytes, lists=listed, rows=rows)
    per_sm = max(1, shape.blocks_per_sm(head_dim, device.limits, cached_bytes))
    instance = decode_instance(head_dim, problem.dtype, shape, per_sm, tile_variant_of(problem, lists=listed))
    return decode_launches(
        device,
        problem,
        instance,
        unit_rows=UNIT_ROWS,
        tile_tokens=shape.tile_tokens,
        blocks=blocks or device.limits.multiprocessors * per_sm,
        split_tokens=split_tokens,
        max_query_len=max_query_len,
        q=q,
        pool=pool,
        block_table=block_table,
        kv_lens=kv_lens,
        qo_indptr=qo_indptr,
        lists=lists,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepPlan:
    """What another kernel needs to write the plan of a decode call: ``page_alloc_extend`` does as it grows.

    Attributes:
        kv_lens: the array of lengths that the plan is made from.
        args: of the kernel, behind its own.
        decode: the attention, which is all that is left to launch.
    """

    kv_lens: Any
    args: tuple[Any, ...]
    decode: Launch


def step_plan(plan: AttentionPlan, problem: Problem) -> StepPlan:
    """Return the parts of a plan of ``plan_decode`` for a kernel that plans in its place."""
    first, decode = plan.launches
    kv_lens, qo_indptr, line, begins, arrivals, _, kv_heads, group_size, split_tiles, shares, meetings = (
        first.args[:11]
    )
    tile_tokens = np.int32(decode.block[0] // 32 * 16)
    window = np.int32(problem.window or 0)
    args = (qo_indptr, line, begins, arrivals, kv_heads, group_size, tile_tokens, split_tiles, window)
    return StepPlan(kv_lens=kv_lens, args=(*args, shares, meetings), decode=decode)


def why_not_decode(problem: Problem) -> str | None:
    """Return why the kernel cannot do ``problem``, or None."""
    if dtype_by_name(problem.dtype).name not in DTYPES:
        return f"no dtype {problem.dtype}"
    if takes_rows(problem) and problem.kv_dtype not in TILE_ROWS:
        return f"no cache of {problem.kv_dtype}"
    if problem.head_dim % HEAD_DIM_STEP or problem.head_dim > MAX_HEAD_DIM:
        return f"head_dim {problem.head_dim} is not a multiple of {HEAD_DIM_STEP} up to {MAX_HEAD_DIM}"
    return None
