# SPDX-License-Identifier: Apache-2.0
"""Memory of the host that ends, or begins, at a page that nobody may touch."""

from __future__ import annotations

import ctypes
import math
import mmap
from dataclasses import replace
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.device.rooms import PlainRooms
from pabench.errors import EnvironmentRefused
from pabench.problem.dtypes import Array
from pabench.problem.tensors import Tensors

PROT_NONE = 0
ALIGNMENT = 16
"""Bytes that an array is aligned to where its size allows: kernels move 16 bytes at once."""


class GuardPages(PlainRooms):
    """Rooms of the emulated device between two guard pages, flush with the one asked for."""

    def __init__(self, device: Device, *, at_end: bool) -> None:
        super().__init__(device)
        self._at_end = at_end

    def given(self, tensors: Tensors) -> Tensors:
        """Return guarded copies, for backends that upload nothing through the device."""
        return guarded(tensors, at_end=self._at_end)

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, upload: bool = False) -> Array:
        """Return new memory; what is no upload is aligned to 16 bytes whatever its size, as on any GPU."""
        size = math.prod(shape) * dtype.itemsize
        room = guarded_bytes(size if upload else padded(size), at_end=self._at_end)[:size]
        return room.view(dtype).reshape(shape)


def padded(size: int) -> int:
    """Return ``size`` rounded up to a multiple of ``ALIGNMENT``."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def guarded_bytes(size: int, *, at_end: bool) -> Array:
    """Return ``size`` bytes, uint8, between two guard pages, flush with the last one or the first.

    Raises:
        EnvironmentRefused: the system gives no such memory.
    """
    if size == 0:
        return np.empty(0, np.uint8)
    page = mmap.PAGESIZE
    body = -(-size // page) * page
    region = mmap.mmap(-1, body + 2 * page)
    start = np.frombuffer(region, np.uint8).ctypes.data
    libc = ctypes.CDLL(None, use_errno=True)
    for guard in (start, start + page + body):
        if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), PROT_NONE):
            raise EnvironmentRefused(f"no guard page: mprotect gave error {ctypes.get_errno()}")
    return np.frombuffer(region, np.uint8, count=size, offset=page + (body - size if at_end else 0))


def guarded(tensors: Tensors, *, at_end: bool) -> Tensors:
    """Return ``tensors`` with each array copied to memory that ends (or begins) at a guard page."""

    def copy(array: Array) -> Array:
        return guarded_copy(array, at_end=at_end)

    return replace(
        tensors,
        q=copy(tensors.q),
        pool=tensors.pool.with_storage(copy(tensors.pool.storage)),
        layout=replace(tensors.layout, block_table=copy(tensors.layout.block_table)),
        kv_lens=copy(tensors.kv_lens),
        qo_indptr=copy(tensors.qo_indptr),
    )


def guarded_copy(array: Array, *, at_end: bool) -> Array:
    """Return a contiguous copy of ``array`` between two guard pages, flush with the one asked for.

    Its alignment is that of its elements, and 16 bytes where its size is a multiple of them.

    Raises:
        EnvironmentRefused: the system gives no such memory.
    """
    held = guarded_bytes(array.nbytes, at_end=at_end).view(array.dtype).reshape(array.shape)
    held[...] = array
    return held
