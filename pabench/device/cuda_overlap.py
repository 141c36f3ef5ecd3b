# SPDX-License-Identifier: Apache-2.0
"""Launches that may begin while the kernel before them runs: programmatic dependent launch.

CuPy launches no kernel with attributes, so this is the driver's ``cuLaunchKernelEx`` itself.  Structures and
numbers are those of the CUDA driver API, "Execution Control" and ``cuda.h``.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from pabench.device.base import Launch
from pabench.errors import EnvironmentRefused, LaunchError

FIRST_CAPABILITY = 90
"""Compute capability, times ten, from which on kernels may overlap those before them."""
PROGRAMMATIC_STREAM_SERIALIZATION = 6
"""The attribute's number."""
LIBRARY = "libcuda.so.1"
POINTER_BYTES = 8


class Attribute(ctypes.Structure):
    """``CUlaunchAttribute``: a number, filled up to 8 bytes, and a value of 64."""

    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int * 16))


class Config(ctypes.Structure):
    """``CUlaunchConfig``."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(Attribute)),
        ("num_attributes", ctypes.c_uint),
    )


@cache
def driver() -> Any:
    """Return ``cuLaunchKernelEx``.

    Raises:
        EnvironmentRefused: the driver has no such function.
    """
    try:
        found = ctypes.CDLL(LIBRARY).cuLaunchKernelEx
    except (OSError, AttributeError) as error:
        raise EnvironmentRefused(f"launches that overlap need CUDA 12 or later: {error}") from None
    found.restype = ctypes.c_int
    found.argtypes = (
        *(ctypes.POINTER(Config), ctypes.c_void_p),
        *(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p),
    )
    return found


def argument_bytes(args: Sequence[Any]) -> list[bytes]:
    """Return each argument as the kernel gets it: arrays of the device by address, the rest by value."""
    return [
        arg.tobytes() if isinstance(arg, np.generic) else int(arg.data.ptr).to_bytes(POINTER_BYTES, "little")
        for arg in args
    ]


def launch_overlapping(function: int, launch: Launch, stream: int) -> None:
    """Queue ``launch``, which may begin while the kernel before it on the stream runs.

    Args:
        function: the kernel's handle, a ``CUfunction``.
        launch: arguments are CuPy arrays and numpy scalars.
        stream: a ``CUstream``.

    Raises:
        EnvironmentRefused: the driver is too old.
        LaunchError: the driver refuses the launch.
    """
    attribute = Attribute(id=PROGRAMMATIC_STREAM_SERIALIZATION)
    attribute.value[0] = 1
    config = Config(
        grid=launch.grid,
        block=launch.block,
        shared_bytes=launch.shared_bytes,
        stream=stream,
        attributes=ctypes.pointer(attribute),
        num_attributes=1,
    )
    # the driver reads as many bytes as the kernel's parameter has; tensor maps must lie at multiples of 64
    held = [_aligned(data) for data in argument_bytes(launch.args)]
    pointers = (ctypes.c_void_p * len(held))(*(address for _, address in held))
    code = driver()(ctypes.byref(config), function, pointers, None)
    if code:
        raise LaunchError(f"{launch.entry}: the driver refuses a launch that overlaps, CUresult {code}")


def _aligned(data: bytes, alignment: int = 64) -> tuple[Any, int]:
    """Return memory that holds ``data`` at an aligned address, and the address."""
    memory = ctypes.create_string_buffer(len(data) + alignment)
    address = -(-ctypes.addressof(memory) // alignment) * alignment
    ctypes.memmove(address, data, len(data))
    return memory, address
