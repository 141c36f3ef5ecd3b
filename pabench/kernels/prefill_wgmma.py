# SPDX-License-Identifier: Apache-2.0
"""Launch plan of ``paged_prefill_wgmma.cu``: prompts by products of warpgroups, on sm_90a alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pabench.device.base import Device, DeviceLimits
from pabench.device.occupancy import SM_LIMITS
from pabench.device.tensor_map import NO_MAP, tensor_map
from pabench.errors import InvalidCase
from pabench.kernels.decode_launches import check_alignment
from pabench.kernels.decode_simple import AttentionPlan
from pabench.kernels.features import FEATURED, PLAIN, variant_of
from pabench.kernels.fitted import DTYPES, PLAN_THREADS, architecture_limits, fitted_instance
from pabench.kernels.instance import HEAD_DIMS, KernelEntry, KernelInstance
from pabench.kernels.prefill import PLAN_SHARED_BYTES, WIDE_TILE_HEAD_DIM, plan_rows
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem

FILE = "paged_prefill_wgmma.cu"
PLAN, PREFILL = "paged_prefill_wgmma_plan", "paged_prefill_wgmma"
ARCHITECTURE = "sm_90a"
"""The one that has these instructions."""
MAX_HEAD_DIM = 256
ROWS = 128
"""Packed rows of a block, 64 for each of two warpgroups."""
WARPS, ATTENDING_WARPS = 12, 8
"""Those of two warpgroups that attend, and of one that copies."""
PANEL, PANEL_ROW_BYTES = 64, 128
"""Elements of a row that lie together in shared memory, and their bytes."""
BARRIER_BYTES = 4 * 8
"""Of a stage."""
ALIGNED = 1024
MOST_STAGES = 4
LEAST_BOX = 16
"""Tokens; smaller pages are copied row by row."""
MOST_STRIDE = 2**40
"""Bytes, of a tensor map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WgmmaShape:
    """Compile-time shape of an instance; none of it changes a bit of the result but ``tile_tokens``.

    Attributes:
        tile_tokens: keys of a tile.
        stages: tiles in shared memory.
        warps: of a block.
    """

    tile_tokens: int
    stages: int
    warps: int = WARPS

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    def shared_bytes(self, head_dim: int, cached_bytes: int = 2) -> int:
        """Return ``sizeof(SharedMemory)`` of the kernel file, which compares both."""
        row = -(-head_dim // PANEL) * PANEL_ROW_BYTES * cached_bytes // 2
        needed = ROWS * row + self.stages * (2 * self.tile_tokens * row + BARRIER_BYTES)
        return -(-needed // ALIGNED) * ALIGNED

    def blocks_per_sm(self, head_dim: int, limits: DeviceLimits, cached_bytes: int = 2) -> int:
        """Return 1, or 0 where the shared memory of a block does not suffice: it takes all registers."""
        return int(self.shared_bytes(head_dim, cached_bytes) <= limits.shared_bytes_per_block)


def wgmma_shape(head_dim: int, limits: DeviceLimits) -> WgmmaShape:
    """Return the shape of a head dimension with the most stages that a block has shared memory for.

    Raises:
        InvalidCase: no shape fits.
    """
    for stages in range(MOST_STAGES, 1, -1):
        shape = WgmmaShape(tile_tokens=_tile_tokens(head_dim), stages=stages)
        if shape.blocks_per_sm(head_dim, limits):
            return shape
    rule = f"needs more shared memory than a block has here, {limits.shared_bytes_per_block} bytes"
    raise InvalidCase("head_dim", head_dim, rule)


def wgmma_instance(head_dim: int, dtype: str, shape: WgmmaShape, variant: str = PLAIN) -> KernelInstance:
    """Return the instance of one head dimension, storage type and shape, plain or with features."""
    made = fitted_instance(
        FILE,
        f"{shape.tile_tokens} keys {shape.stages} stages",
        head_dim=head_dim,
        dtype=dtype,
        variant=variant,
        shape=shape,
        blocks=1,
        plan=KernelEntry(name=PLAN, threads=PLAN_THREADS, shared_bytes=PLAN_SHARED_BYTES),
        attention=PREFILL,
        turn_tokens=shape.tile_tokens,
        PAB_TILE=shape.tile_tokens,
    )
    plan, attend = made.entries
    entries = (plan, replace(attend, turn_warps=ATTENDING_WARPS))
    return replace(made, entries=entries, architectures=frozenset({ARCHITECTURE}))


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table."""
    limits = architecture_limits(SM_LIMITS[ARCHITECTURE])
    for head_dim, dtype, variant in itertools.product(HEAD_DIMS, DTYPES, (PLAIN, FEATURED)):
        yield wgmma_instance(head_dim, dtype, wgmma_shape(head_dim, limits), variant)


def box_tokens(pool: KvPool) -> int:
    """Return the tokens of a box, which divide page and tile; 0 where pages come by 16-byte copies."""
    page_size, head_dim = _page_size(pool), int(pool.k.shape[-1])
    tokens = min(page_size & -page_size, _tile_tokens(head_dim))
    strides = [2 * stride for stride in pool.element_strides]
    fits = all(0 < stride < MOST_STRIDE for stride in strides) and pool.num_pages > 0
    return tokens if fits and tokens >= LEAST_BOX else 0


def tensor_maps(device: Device, pool: KvPool) -> tuple[np.void, np.void]:
    """Return the maps of keys and values in which the kernel finds its boxes.

    Args:
        device: with architecture sm_90a.
        pool: the cache on the device.
    """
    tokens = box_tokens(pool)
    if not tokens:
        return NO_MAP, NO_MAP
    page, token, head = (2 * stride for stride in pool.element_strides)
    heads = pool.k.shape[2 if pool.kv_layout == "NHD" else 1]

    def of(array: Any) -> np.void:
        return tensor_map(
            device,
            array,
            box=(PANEL, tokens, 1, 1),
            sizes=(int(array.shape[-1]), _page_size(pool), int(heads), pool.num_pages),
            strides=(token, head, page),
            swizzle=PANEL_ROW_BYTES,
        )

    return of(pool.k), of(pool.v)


def _page_size(pool: KvPool) -> int:
    return int(pool.k.shape[1 if pool.kv_layout == "NHD" else 2])


def _tile_tokens(head_dim: int) -> int:
    return 128 if head_dim <= WIDE_TILE_HEAD_DIM else 64


def plan_prefill_wgmma(
    device: Device,
    problem: Problem,
    *,
    q: Any,
    pool: KvPool,
    block_table: Any,
    kv_lens: Any,
    qo_indptr: Any,
    shape: WgmmaShape | None = None,
    min_query_len: int = 0,
    beside: AttentionPlan | None = None,
    boxes: bool = True,
) -> AttentionPlan:
    """Return two launches, as ``plan_prefill`` does; arguments and errors are its own.

    Args:
        device: with architecture sm_90a.
        problem: what is asked; its cache is stored as the queries are.
        q, pool, block_table, kv_lens, qo_indptr: see ``plan_prefill``.
        shape: of the instance; None chooses by the device.
        min_query_len: sequences with fewer query tokens are left alone, and their rows as they are.
        beside: the call that does what is left alone; its output and LSE are written.
        boxes: whether whole tiles of large pages come through tensor maps; no bit depends on it.
    """
    check_alignment(q, pool)
    shape = shape or wgmma_shape(problem.head_dim, device.limits)
    return plan_rows(
        device,
        problem,
        wgmma_instance(problem.head_dim, problem.dtype, shape, variant_of(problem)),
        ROWS,
        q=q,
        pool=pool,
        block_table=block_table,
        kv_lens=kv_lens,
        qo_indptr=qo_indptr,
        min_query_len=min_query_len,
        beside=beside,
        maps=(*tensor_maps(device, pool), np.int32(box_tokens(pool) if boxes else 0)),
    )
