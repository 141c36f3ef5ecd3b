# SPDX-License-Identifier: Apache-2.0
"""Runs a backend while canaries stand around its memory, and says what it wrote that it may not write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from pabench.device.base import Device
from pabench.device.rooms import CANARY, in_rooms, make_rooms
from pabench.problem.dtypes import Array
from pabench.problem.tensors import Tensors

MAX_SNAPSHOT_BYTES = 2**24
"""Larger inputs, which are the pools with high page ids, are not compared with their state before."""

Result = TypeVar("Result")


def inputs_of(tensors: Tensors) -> dict[str, Array]:
    """Return the arrays that a backend is given, by name."""
    return {
        "q": tensors.q,
        "block_table": tensors.layout.block_table,
        "kv_lens": tensors.kv_lens,
        "qo_indptr": tensors.qo_indptr,
        "the cache": tensors.pool.storage,
    }


def watched(
    device: Device, inputs: Mapping[str, Array], run: Callable[[], Result]
) -> tuple[Result, str | None]:
    """Return what ``run`` returns, and what it wrote that it may not write, or None.

    That is its inputs, on the host and on the device, and what lies beside any array that the device has
    handed out meanwhile.  Backends with memory of their own are watched by their inputs alone.
    """
    small = {name: array for name, array in inputs.items() if array.nbytes <= MAX_SNAPSHOT_BYTES}
    before = {name: array.tobytes() for name, array in small.items()}
    with in_rooms(device, make_rooms(device, CANARY)) as rooms:
        result = run()
        stray, changed = rooms.found(small)
    changed += [name for name, array in small.items() if array.tobytes() != before[name]]
    if changed:
        stray = f"the backend changed its inputs: {', '.join(dict.fromkeys(changed))}"
    return result, stray
