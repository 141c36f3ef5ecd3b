# SPDX-License-Identifier: Apache-2.0
"""Instances of the tensor-core kernels: a shape that is chosen by what a device has, and its macros."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Protocol, TypeVar

from pabench.device.base import DeviceLimits
from pabench.device.occupancy import RESERVED_SHARED_BYTES, SM_LIMITS, SmLimits
from pabench.kernels.features import LIST_VARIANTS, MASK_VARIANTS, TILE_ROW_VARIANTS, VARIANTS
from pabench.kernels.instance import DTYPE_CODES, HEAD_DIMS, KernelEntry, KernelInstance

DTYPES = ("float16", "bfloat16")
PLAN_THREADS = 1024
"""Of the one block that plans."""


class Shape(Protocol):
    """Compile-time shape of an instance; hashable."""

    @property
    def warps(self) -> int:
        """Warps of a block."""

    @property
    def stages(self) -> int:
        """Tiles in shared memory."""

    @property
    def threads(self) -> int:
        """Threads of a block."""

    def shared_bytes(self, head_dim: int, cached_bytes: int = 2) -> int:
        """Dynamic shared memory of a block."""

    def blocks_per_sm(self, head_dim: int, limits: DeviceLimits, cached_bytes: int = 2) -> int:
        """Blocks that a multiprocessor holds, 0 when none fits."""


S = TypeVar("S", bound=Shape)
KNOWN_VARIANTS = VARIANTS | LIST_VARIANTS | MASK_VARIANTS | TILE_ROW_VARIANTS


def fitted_instance(
    file: str,
    label: str,
    *,
    head_dim: int,
    dtype: str,
    variant: str,
    shape: Shape,
    blocks: int,
    plan: KernelEntry,
    attention: str,
    turn_tokens: int = 0,
    **more: int,
) -> KernelInstance:
    """Return an instance of a kernel file with a kernel that plans and one that attends.

    Args:
        file: name in the kernels folder.
        label: the instance in words, without its variant.
        head_dim: elements of one head's vector.
        dtype: of queries and output.
        variant: one of ``KNOWN_VARIANTS``.
        shape: of the instance.
        blocks: of a multiprocessor.
        plan: entry point that plans.
        attention: name of the entry point that attends.
        turn_tokens: of it, see ``KernelEntry``.
        more: further macros.
    """
    shared = shape.shared_bytes(head_dim, cached_bytes_of(variant))
    attend = KernelEntry(name=attention, threads=shape.threads, shared_bytes=shared, turn_tokens=turn_tokens)
    return KernelInstance(
        file=file,
        label=f"{dtype} head_dim {head_dim} {label}{variant}",
        defines={
            "PAB_HEAD_DIM": head_dim,
            "PAB_DTYPE": DTYPE_CODES[dtype],
            "PAB_WARPS": shape.warps,
            "PAB_STAGES": shape.stages,
            "PAB_BLOCKS": blocks,
            "PAB_PLAN_THREADS": PLAN_THREADS,
            "PAB_SHARED_BYTES": shared,
            **more,
            **KNOWN_VARIANTS[variant],
        },
        entries=(plan, attend),
    )


def fitted_instances(
    shapes: Callable[[int, DeviceLimits, str], Iterable[S]],
    instance: Callable[[int, str, S, int, str], KernelInstance],
    head_dims: Iterable[int] = HEAD_DIMS,
    variants: Iterable[str] = tuple(VARIANTS),
) -> Iterator[KernelInstance]:
    """Yield the instances of the static table, each for the architectures whose devices take it.

    Args:
        shapes: of a head_dim, a device and a variant.
        instance: of a head_dim, a dtype, a shape, blocks of a multiprocessor and a variant.
        head_dims: for which they are made.
        variants: likewise, of ``KNOWN_VARIANTS``.
    """
    for head_dim, dtype, variant in itertools.product(head_dims, DTYPES, variants):
        cached_bytes = cached_bytes_of(variant)
        fitting: dict[tuple[S, int], set[str]] = {}
        for architecture, sm in SM_LIMITS.items():
            limits = architecture_limits(sm)
            for shape in shapes(head_dim, limits, variant):
                blocks = shape.blocks_per_sm(head_dim, limits, cached_bytes)
                fitting.setdefault((shape, blocks), set()).add(architecture)
        for (shape, blocks), names in fitting.items():
            made = instance(head_dim, dtype, shape, blocks, variant)
            yield replace(made, architectures=frozenset(names))


def cached_bytes_of(variant: str) -> int:
    """Return the bytes of a cached element in instances of a variant; rows are bytes."""
    macros = KNOWN_VARIANTS[variant]
    return 1 if macros["PAB_E4M3"] or "PAB_TILE_ROWS" in macros else 2


def architecture_limits(sm: SmLimits, multiprocessors: int = 1) -> DeviceLimits:
    """Return the limits of a device with these multiprocessors."""
    return DeviceLimits(
        multiprocessors=multiprocessors,
        shared_bytes_per_block=sm.shared_bytes - RESERVED_SHARED_BYTES,
        shared_bytes_per_sm=sm.shared_bytes,
    )
