# SPDX-License-Identifier: Apache-2.0
"""Launch plan of ``merge_states.cu``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.device.base import Device, Launch, Module
from pabench.errors import InvalidCase
from pabench.kernels.instance import (
    DTYPE_CODES,
    LOAD_BYTES,
    THREADS,
    WARPS,
    KernelEntry,
    KernelInstance,
    address_of,
    kernel_source,
    vector_width,
)
from pabench.problem.dtypes import DTYPES, DType

FILE, ENTRY = "merge_states.cu", "merge_states"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MergePlan:
    """The launch of one merge; ``out`` and ``lse`` are written by it.

    Attributes:
        states: kept, because the launch has only their addresses.
    """

    module: Module
    launches: tuple[Launch, ...]
    states: tuple[tuple[Any, ...], ...]
    out: Any
    lse: Any


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table: every dtype x width of a move."""
    for dtype in DTYPES.values():
        width = LOAD_BYTES // dtype.itemsize
        while width:
            yield KernelInstance(
                file=FILE,
                label=f"{dtype.name} moves of {width}",
                defines=_defines(dtype, width),
                entries=(KernelEntry(name=ENTRY, threads=THREADS),),
            )
            width //= 2


def plan_merge(
    device: Device,
    dtype: DType,
    *,
    states: Sequence[tuple[Any, ...]],
    rows: Any,
    num_rows: int,
    in_place: bool = False,
    lse_base: str = "e",
) -> MergePlan:
    """Return the launch that merges ``states`` in their order.

    Args:
        device: where all arrays lie.
        dtype: storage type of the states' outputs and of the result.
        states: of each its outputs ``(any, num_heads, head_dim)`` and its LSEs ``(any, num_heads)`` float32,
            in ``lse_base``; -inf for a row that saw no key.
        rows: ``(len(states), num_rows) int32`` on the device: which row of a state goes into a row of the
            result, negative for none.
        num_rows: rows of the result.
        in_place: the result lies over the first state, each row of which goes into the same row.
        lse_base: of the LSEs, given and written: ``e`` or ``2``.

    Raises:
        InvalidCase: no state, or states that differ in heads or head_dim.
    """
    if not states:
        raise InvalidCase("states", 0, "must be at least one")
    num_heads, head_dim = states[0][0].shape[1:]
    for outs, lses in states:
        if tuple(outs.shape[1:]) != (num_heads, head_dim) or lses.shape != outs.shape[:2]:
            given = (tuple(outs.shape), tuple(lses.shape))
            raise InvalidCase(
                "state", given, f"must have {num_heads} heads of {head_dim}, and an LSE for each"
            )
    if in_place:
        out, lse = states[0]
    else:
        out = device.empty((num_rows, num_heads, head_dim), dtype.storage)
        lse = device.empty((num_rows, num_heads), np.dtype(np.float32))
    # no wider than leaves every lane its share
    width = vector_width(head_dim, dtype, out, *(outs for outs, _ in states))
    while width > 1 and head_dim // width < 32:
        width //= 2
    addresses = np.array([[address_of(array) for array in pair] for pair in states], np.uint64)
    launch = Launch(
        entry=ENTRY,
        grid=(-(-num_rows * num_heads // WARPS), 1, 1),
        block=(THREADS, 1, 1),
        args=(
            *(device.to_device(np.ascontiguousarray(column)) for column in addresses.T),
            *(rows, out, lse, np.int32(len(states)), np.int32(num_rows)),
            *(np.int32(num_heads), np.int32(head_dim)),
        ),
    )
    base = {"PAB_LSE_BASE_2": 1} if lse_base == "2" else {}
    module = device.load(kernel_source(device, FILE, **_defines(dtype, width), **base))
    launches = (launch,) if num_rows * num_heads else ()
    return MergePlan(module=module, launches=launches, states=tuple(states), out=out, lse=lse)


def _defines(dtype: DType, width: int) -> dict[str, int]:
    return {"PAB_DTYPE": DTYPE_CODES[dtype.name], "PAB_VEC": width, "PAB_WARPS": WARPS}
