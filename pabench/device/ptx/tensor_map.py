# SPDX-License-Identifier: Apache-2.0
"""Tensor maps for ``cp.async.bulk.tensor``, as ``cuTensorMapEncodeTiled`` makes them for a GPU."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from pabench.errors import LaunchError
from pabench.problem.dtypes import Array

MAGIC = 0x50414D54
BYTES = 128
ALIGNED = 16
MOST_STRIDE = 2**40
MOST_SIZE = 2**32 - 1
MOST_BOX = 256
MOST_RANK = 5
SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}
"""Bytes of a row within which 16-byte pieces change places, to the bits of their number that do."""


def encode_tiled(
    array: Array,
    *,
    box: Sequence[int],
    swizzle: int = 0,
    sizes: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.void:
    """Return the tensor map of an array, to be given to a kernel as its ``CUtensorMap`` of 128 bytes.

    The rules are those of ``cuTensorMapEncodeTiled`` (CUDA driver API), with no interleave, elements next
    to one another and zeros for what lies outside.

    Args:
        array: elements of 1, 2, 4 or 8 bytes in memory of this device.
        box: elements of a tile in each dimension, the innermost first.
        swizzle: 0, 32, 64 or 128 bytes.
        sizes: of the tensor, the innermost first; default those of the array.
        strides: bytes, of every dimension but the innermost; default those of the array.

    Raises:
        LaunchError: a rule is broken.
    """
    sizes = list(array.shape[::-1] if sizes is None else sizes)
    strides = list(array.strides[-2::-1] if strides is None else strides)
    item, address = array.dtype.itemsize, array.ctypes.data
    row = box[0] * item if box else 0
    rules = (
        (1 <= len(sizes) <= MOST_RANK, f"{len(sizes)} dimensions", "1 to 5"),
        (
            len(box) == len(sizes),
            f"a box of {len(box)} dimensions",
            f"as many as the tensor has: {len(sizes)}",
        ),
        (len(strides) == len(sizes) - 1, f"{len(strides)} strides", "one fewer than dimensions"),
        (item in (1, 2, 4, 8), f"elements of {item} bytes", "1, 2, 4 or 8"),
        (address % ALIGNED == 0, f"address 0x{address:x}", "a multiple of 16"),
        (all(1 <= one <= MOST_SIZE for one in sizes), f"sizes {sizes}", "1 to 2^32 - 1"),
        (
            all(one % ALIGNED == 0 and 0 < one < MOST_STRIDE for one in strides),
            f"strides {strides}",
            "multiples of 16 below 2^40",
        ),
        (all(1 <= one <= MOST_BOX for one in box), f"box {list(box)}", "1 to 256 in each dimension"),
        (row % ALIGNED == 0, f"a row of {row} bytes in the box", "a multiple of 16"),
        (swizzle in SWIZZLES, f"swizzle {swizzle}", "0, 32, 64 or 128"),
        (not swizzle or row <= swizzle, f"a row of {row} bytes", f"at most the swizzle's {swizzle}"),
        (
            not swizzle or row >= swizzle,
            f"a row of {row} bytes",
            f"{swizzle}: narrower ones are not supported yet",
        ),
    )
    for kept, what, rule in rules:
        if not kept:
            raise LaunchError(f"tensor map: {what}: must be {rule}")
    full = MOST_RANK - len(sizes)
    text = struct.pack(
        "<IBBBBQ4Q5I5H",
        MAGIC,
        len(sizes),
        item,
        SWIZZLES[swizzle],
        0,
        address,
        *strides,
        *[0] * (4 - len(strides)),
        *sizes,
        *[1] * full,
        *box,
        *[1] * full,
    )
    return np.void(text.ljust(BYTES, b"\0"))
