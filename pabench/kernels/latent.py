# SPDX-License-Identifier: Apache-2.0
"""Launch plan of ``paged_decode_latent.cu``, the tensor-core kernel over latent caches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pabench.device.base import Device, DeviceLimits
from pabench.device.occupancy import SM_LIMITS, blocks_by_registers, blocks_by_shared
from pabench.errors import InvalidCase
from pabench.kernels.decode import MAX_BLOCKS_PER_SM, PLAN_SHARED_BYTES, works_bytes
from pabench.kernels.decode_launches import check_alignment, decode_launches
from pabench.kernels.decode_simple import AttentionPlan
from pabench.kernels.features import FEATURED, LISTED, PLAIN, variant_of
from pabench.kernels.fitted import DTYPES, KNOWN_VARIANTS, PLAN_THREADS, architecture_limits
from pabench.kernels.instance import DTYPE_CODES, KernelEntry, KernelInstance
from pabench.kernels.key_lists import KeyLists
from pabench.problem.checks import INT32_MAX
from pabench.problem.dtypes import dtype_by_name
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem

FILE = "paged_decode_latent.cu"
PLAN, DECODE = "paged_decode_latent_plan", "paged_decode_latent"
LATENT_DIMS = (576, 512)
"""``head_dim`` and ``head_dim_v`` of published models: those of the static table, and the largest."""
ROW_STEP, VALUE_STEP = 8, 16
"""What ``head_dim``, a whole copy, and ``head_dim_v``, a step of values, are multiples of."""
GROUP_ROWS = 16
OTHER_REGISTERS = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentShape:
    """Compile-time shape of an instance.

    Attributes:
        groups: of warps in a block, each with 16 rows of a unit.
        group_warps: warps of a group, which share its rows.
        tile_tokens: tokens of a tile, a multiple of 16 for each warp of a group.
        stages: tiles in shared memory.
        lists: whether it attends to the keys of lists.
    """

    groups: int
    group_warps: int
    tile_tokens: int
    stages: int
    lists: bool = False

    @property
    def unit_rows(self) -> int:
        """Packed rows of a unit, which read each token once."""
        return GROUP_ROWS * self.groups

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.groups * self.group_warps

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    def shared_bytes(self, head_dim: int) -> int:
        """Return ``sizeof(SharedMemory)`` of the kernel file, which compares both."""
        row = 2 * VALUE_STEP * -(-head_dim // VALUE_STEP)  # filled up to whole steps
        rows = self.stages * self.tile_tokens + self.unit_rows
        weights = 2 * self.unit_rows * self.tile_tokens
        works = works_bytes(self.stages, lists=self.lists)
        states = 2 * self.warps * GROUP_ROWS * 4
        return rows * row + weights + 2 * self.tile_tokens * 8 + works + states + 8

    def blocks_per_sm(self, head_dim: int, value_dim: int, limits: DeviceLimits) -> int:
        """Return how many blocks a multiprocessor holds, by shared memory and registers; 0 when none fits."""
        needed = self.shared_bytes(head_dim)
        if needed > limits.shared_bytes_per_block:
            return 0
        steps = -(-value_dim // (VALUE_STEP * self.group_warps))
        by_registers = blocks_by_registers(self.warps, 8 * steps + OTHER_REGISTERS)
        by_shared = blocks_by_shared(limits.shared_bytes_per_sm, needed)
        return max(1, min(by_shared, by_registers, MAX_BLOCKS_PER_SM))


def _shape(groups: int, group_warps: int, tile_tokens: int, stages: int) -> LatentShape:
    return LatentShape(groups=groups, group_warps=group_warps, tile_tokens=tile_tokens, stages=stages)


NARROW = (_shape(1, 4, 64, 2), _shape(1, 2, 32, 3), _shape(1, 2, 32, 2))
"""Shapes for up to 16 rows of a sequence; the first that fits is taken."""
WIDE = (_shape(4, 2, 64, 2), _shape(4, 2, 32, 2), *NARROW)
"""Likewise for more rows: 64 read each token once where the queries of 64 fit."""


def latent_shape(head_dim: int, limits: DeviceLimits, rows: int, *, lists: bool = False) -> LatentShape:
    """Return the shape for sequences of about ``rows`` packed rows; ``lists``: that attends to keys of lists.

    Raises:
        InvalidCase: no shape fits the shared memory of a block.
    """
    for known in WIDE if rows > GROUP_ROWS else NARROW:
        shape = replace(known, lists=lists)
        if shape.shared_bytes(head_dim) <= limits.shared_bytes_per_block:
            return shape
    rule = f"needs more shared memory than a block has here, {limits.shared_bytes_per_block} bytes"
    raise InvalidCase("head_dim", head_dim, rule)


def latent_instance(
    dims: tuple[int, int], dtype: str, shape: LatentShape, blocks: int, variant: str = PLAIN
) -> KernelInstance:
    """Return the instance of ``(head_dim, head_dim_v)``, storage type and shape, ``blocks`` to an SM."""
    head_dim, value_dim = dims
    shared = shape.shared_bytes(head_dim)
    attend = KernelEntry(
        name=DECODE, threads=shape.threads, shared_bytes=shared, turn_tokens=shape.tile_tokens
    )
    words = f"{shape.unit_rows} rows {shape.warps} warps tile {shape.tile_tokens} {shape.stages} stages"
    return KernelInstance(
        file=FILE,
        label=f"{dtype} head_dim {head_dim} head_dim_v {value_dim} {words}{variant}",
        defines={
            "PAB_HEAD_DIM": head_dim,
            "PAB_HEAD_DIM_V": value_dim,
            "PAB_DTYPE": DTYPE_CODES[dtype],
            "PAB_UNIT_ROWS": shape.unit_rows,
            "PAB_WARPS": shape.warps,
            "PAB_TILE": shape.tile_tokens,
            "PAB_STAGES": shape.stages,
            "PAB_BLOCKS": blocks,
            "PAB_PLAN_THREADS": PLAN_THREADS,
            "PAB_SHARED_BYTES": shared,
            **KNOWN_VARIANTS[variant],
        },
        entries=(KernelEntry(name=PLAN, threads=PLAN_THREADS, shared_bytes=PLAN_SHARED_BYTES), attend),
    )


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table, each for the architectures whose devices take it."""
    for lists, variants in ((False, (PLAIN, FEATURED)), (True, (LISTED,))):
        fitting: dict[tuple[LatentShape, int], set[str]] = {}
        for (architecture, sm), rows in itertools.product(SM_LIMITS.items(), (GROUP_ROWS, GROUP_ROWS + 1)):
            limits = architecture_limits(sm)
            shape = latent_shape(LATENT_DIMS[0], limits, rows, lists=lists)
            blocks = shape.blocks_per_sm(*LATENT_DIMS, limits)
            fitting.setdefault((shape, blocks), set()).add(architecture)
        for ((shape, blocks), names), dtype, variant in itertools.product(fitting.items(), DTYPES, variants):
            made = latent_instance(LATENT_DIMS, dtype, shape, blocks, variant)
            yield replace(made, architectures=frozenset(names))


def plan_latent(
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
    shape: LatentShape | None = None,
    lists: KeyLists | None = None,
) -> AttentionPlan:
    """Return two launches, a plan and the attention, for any number of query tokens a sequence.

    Args are those of ``decode.plan_decode``; ``shape`` follows from the rows of a sequence, on average.

    Raises:
        InvalidCase: an array that does not start at a multiple of 16 bytes, a ``split_tokens`` that is no
            multiple of the tile, or a ``head_dim`` whose tiles do not fit the device.
    """
    check_alignment(q, pool)
    rows = -(-q.shape[0] * problem.group_size // max(1, block_table.shape[0]))
    listed = lists is not None
    shape = shape or latent_shape(problem.head_dim, device.limits, rows, lists=listed)
    dims = problem.head_dim, problem.value_dim
    per_sm = max(1, shape.blocks_per_sm(*dims, device.limits))
    return decode_launches(
        device,
        problem,
        latent_instance(dims, problem.dtype, shape, per_sm, LISTED if listed else variant_of(problem)),
        unit_rows=shape.unit_rows,
        tile_tokens=shape.tile_tokens,
        blocks=blocks or device.limits.multiprocessors * per_sm,
        split_tokens=split_tokens,
        max_query_len=INT32_MAX,
        q=q,
        pool=pool,
        block_table=block_table,
        kv_lens=kv_lens,
        qo_indptr=qo_indptr,
        lists=lists,
    )


def why_not_latent(problem: Problem) -> str | None:
    """Return why the kernel cannot do ``problem``, or None."""
    if not problem.latent:
        return "no cache of keys and values apart"
    if dtype_by_name(problem.dtype).name not in DTYPES:
        return f"no dtype {problem.dtype}"
    if problem.kv_dtype is not None:
        return f"no latent cache of {problem.kv_dtype}"
    if problem.head_dim % ROW_STEP or problem.head_dim > LATENT_DIMS[0]:
        return f"head_dim {problem.head_dim} is not a multiple of {ROW_STEP} up to {LATENT_DIMS[0]}"
    if problem.value_dim % VALUE_STEP or problem.value_dim > LATENT_DIMS[1]:
        return f"head_dim_v {problem.value_dim} is not a multiple of {VALUE_STEP} up to {LATENT_DIMS[1]}"
    return None
