# SPDX-License-Identifier: Apache-2.0
"""Gives a control its memory on a device, launches it, and looks at what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pabench.controls.model import DTYPES, Buffer, Control, Scalar
from pabench.device.base import Device, KernelSource, Launch
from pabench.problem.dtypes import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A control's launch, and the device memory it needs.

    Attributes:
        launch: arguments on the device.
        arrays: device memory by the name of its buffer.
        given_back: memory that was freed, held so that nobody else gets it; empty on a GPU.
    """

    launch: Launch
    arrays: dict[str, Any]
    given_back: tuple[Any, ...]


def kernel_source(control: Control, folder: Path, device: Device) -> KernelSource:
    """Return the kernel file of ``control``, which lies in ``folder``."""
    return KernelSource(path=folder / control.file, include_dir=device.kernels)


def prepare(control: Control, device: Device) -> Prepared:
    """Allocate and fill the buffers of ``control`` on ``device`` and free what the table says is freed."""
    buffers = [arg for arg in control.args if isinstance(arg, Buffer)]
    arrays = {b.name: _allocate(b, device) for b in buffers if b.address_of is None}
    for pointer in buffers:
        if pointer.address_of is not None:
            address = np.array([_address(arrays[pointer.address_of])], np.uint64)
            arrays[pointer.name] = device.to_device(address)
    freed = [arrays.pop(b.name) for b in buffers if b.freed]
    free = getattr(device, "free", None)
    if free is not None:
        for array in freed:
            free(array)
    else:
        freed.clear()  # the last reference: the library gives the memory back
    args = [
        np.dtype(DTYPES[arg.dtype]).type(arg.value) if isinstance(arg, Scalar) else arrays[arg.name]
        for arg in control.args
        if isinstance(arg, Scalar) or not arg.freed
    ]
    launch = Launch(
        entry=control.id,
        grid=control.grid,
        block=control.block,
        args=args,
        shared_bytes=control.shared_bytes,
    )
    return Prepared(launch=launch, arrays=arrays, given_back=tuple(freed))


def wrong_output(control: Control, device: Device, prepared: Prepared) -> str | None:
    """Return the first element that a look-alike should have left otherwise, in words, or None."""
    for buffer in control.args:
        if not isinstance(buffer, Buffer) or buffer.equals is None:
            continue
        got: Array = device.to_host(prepared.arrays[buffer.name])
        expected = np.array(buffer.equals, got.dtype)
        if (different := np.flatnonzero(got != expected)).size:
            i = int(different[0])
            return f"{buffer.name}[{i}] = {got[i]}, must be {expected[i]}"
    return None


def _allocate(buffer: Buffer, device: Device) -> Any:
    dtype = np.dtype(DTYPES[buffer.dtype])
    if buffer.fill == "unwritten":
        return device.empty((buffer.size,), dtype)
    if buffer.fill == "arange":
        return device.to_device(np.arange(buffer.size, dtype=dtype))
    # to_device may share the host's memory, and kernels may write: an array of our own
    filled = np.empty(buffer.size, dtype)
    filled[:] = buffer.fill
    return device.to_device(filled)


def _address(array: Any) -> int:
    return int(array.ctypes.data) if isinstance(array, np.ndarray) else int(array.data.ptr)
