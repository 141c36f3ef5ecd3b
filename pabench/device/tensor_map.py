# SPDX-License-Identifier: Apache-2.0
"""Tensor maps, by which ``cp.async.bulk.tensor`` brings boxes of a tensor, for any device that has them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from pabench.device.base import Device, device_kind
from pabench.device.ptx.architectures import KIND
from pabench.device.ptx.tensor_map import BYTES, SWIZZLES, encode_tiled
from pabench.errors import EnvironmentRefused, LaunchError, Unsupported

NO_MAP = np.void(bytes(BYTES))
"""For a parameter of the kernel that it does not look at."""
DRIVER = "libcuda.so.1"
WHOLE_NUMBERS = {1: 0, 2: 1, 4: 2, 8: 4}
"""``CUtensorMapDataType`` by bytes of an element: what is copied has no value."""
PROMOTED = 2
"""``CU_TENSOR_MAP_L2_PROMOTION_L2_128B``: a row of a box."""
ALIGNED = 64


def tensor_map(
    device: Device,
    array: Any,
    *,
    box: Sequence[int],
    sizes: Sequence[int],
    strides: Sequence[int],
    swizzle: int,
) -> np.void:
    """Return the 128 bytes of a map, to be given to a kernel as its ``__grid_constant__`` parameter.

    Args:
        device: a GPU or one that runs PTX.
        array: of the device, elements of 1, 2, 4 or 8 bytes; where it begins is where the tensor does.
        box: elements in each dimension, the innermost first.
        sizes: of the tensor, the innermost first.
        strides: bytes, of every dimension but the innermost.
        swizzle: 0, 32, 64 or 128 bytes.

    Raises:
        LaunchError: a rule of ``cuTensorMapEncodeTiled`` is broken.
        Unsupported: a device of another kind.
        EnvironmentRefused: the driver has no such function.
    """
    kind = device_kind(device.name)
    if kind == KIND:
        return encode_tiled(array, box=box, sizes=sizes, strides=strides, swizzle=swizzle)
    if kind != "cuda":
        raise Unsupported(f"tensor maps: there are none on device {device.name}")
    return _encoded(int(array.data.ptr), array.dtype.itemsize, box, sizes, strides, swizzle)


def _encoded(
    address: int, item: int, box: Sequence[int], sizes: Sequence[int], strides: Sequence[int], swizzle: int
) -> np.void:
    try:
        encode = ctypes.CDLL(DRIVER).cuTensorMapEncodeTiled
    except (OSError, AttributeError) as error:
        raise EnvironmentRefused(f"the CUDA driver makes no tensor maps: {error}") from None
    rank = len(sizes)
    room = (ctypes.c_uint8 * (BYTES + ALIGNED))()
    start = -ctypes.addressof(room) % ALIGNED
    refused = encode(
        ctypes.c_void_p(ctypes.addressof(room) + start),
        ctypes.c_int(WHOLE_NUMBERS[item]),
        ctypes.c_uint32(rank),
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * rank)(*sizes),
        (ctypes.c_uint64 * max(1, rank - 1))(*strides),
        (ctypes.c_uint32 * rank)(*box),
        (ctypes.c_uint32 * rank)(*[1] * rank),
        ctypes.c_int(0),  # not interleaved
        ctypes.c_int(SWIZZLES[swizzle]),
        ctypes.c_int(PROMOTED),
        ctypes.c_int(0),  # zeros for what lies outside
    )
    if refused:
        given = f"box {list(box)} of sizes {list(sizes)}, strides {list(strides)}, swizzle {swizzle}"
        raise LaunchError(f"tensor map: {given}: error {refused} of the CUDA driver")
    return np.void(bytes(room[start : start + BYTES]))
