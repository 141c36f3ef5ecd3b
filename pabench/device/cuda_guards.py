# SPDX-License-Identifier: Apache-2.0
"""Memory of a GPU that ends, or begins, at addresses that are reserved and never mapped.

Three granules of virtual addresses and more are reserved, and all but the first and the last are mapped
(CUDA driver API, "Virtual Memory Management").  A kernel that strays by a byte faults, whatever lies beside
the array in ordinary memory.  A fault ends the CUDA context, and with it the worker process.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.device.guard_pages import padded
from pabench.device.rooms import PlainRooms
from pabench.errors import Unsupported

PINNED, ON_DEVICE, READ_WRITE, MINIMUM = 1, 1, 3, 0
"""``CU_MEM_ALLOCATION_TYPE_PINNED``, ``CU_MEM_LOCATION_TYPE_DEVICE``, ``CU_MEM_ACCESS_FLAGS_PROT_READWRITE``
and ``CU_MEM_ALLOC_GRANULARITY_MINIMUM`` of cuda.h."""


class Location(ctypes.Structure):
    """``CUmemLocation``."""

    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class AllocationProp(ctypes.Structure):
    """``CUmemAllocationProp``."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("requested_handle_types", ctypes.c_int),
        ("location", Location),
        ("win32_handle_meta_data", ctypes.c_void_p),
        ("compression_type", ctypes.c_ubyte),
        ("gpu_direct_rdma_capable", ctypes.c_ubyte),
        ("usage", ctypes.c_ushort),
        ("reserved", ctypes.c_ubyte * 4),
    )


class AccessDesc(ctypes.Structure):
    """``CUmemAccessDesc``."""

    _fields_ = (("location", Location), ("flags", ctypes.c_int))


@dataclass(frozen=True, slots=True, kw_only=True)
class Granules:
    """Mapped memory between two granules that are not.

    Attributes:
        base: address of the first mapped byte.
        nbytes: mapped, a multiple of the granule.
        free: unmaps it and gives the addresses back.
    """

    base: int
    nbytes: int
    free: Callable[[], None]


class Driver:
    """The calls of the CUDA driver that this takes.

    Args:
        library: ``libcuda.so.1``, or what stands for it.

    Raises:
        Unsupported: there is no driver.
    """

    def __init__(self, library: Any = None) -> None:
        try:
            self._library = library or ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise Unsupported(f"no guard granules: the CUDA driver cannot be loaded ({error})") from None

    def map_between_guards(self, nbytes: int, *, device_id: int) -> Granules:
        """Return at least ``nbytes`` of memory of a GPU with an unmapped granule on either side.

        Raises:
            Unsupported: the driver refuses a call.
        """
        location = Location(type=ON_DEVICE, id=device_id)
        prop = AllocationProp(type=PINNED, location=location)
        granule = ctypes.c_size_t()
        self._call("cuMemGetAllocationGranularity", ctypes.byref(granule), ctypes.byref(prop), MINIMUM)
        size = max(1, -(-nbytes // granule.value)) * granule.value
        whole = size + 2 * granule.value
        start, handle = ctypes.c_uint64(), ctypes.c_uint64()
        undo: list[tuple[Any, ...]] = []

        def free() -> None:
            for call in reversed(undo):
                # at the end of a process the driver may be gone already
                getattr(self._library, call[0])(*call[1:])
            undo.clear()

        try:
            self._call(
                "cuMemAddressReserve", ctypes.byref(start), *map(ctypes.c_size_t, (whole, 0)), *_zeros(2)
            )
            undo.append(("cuMemAddressFree", start, ctypes.c_size_t(whole)))
            base = ctypes.c_uint64(start.value + granule.value)
            self._call(
                "cuMemCreate", ctypes.byref(handle), ctypes.c_size_t(size), ctypes.byref(prop), *_zeros(1)
            )
            undo.append(("cuMemRelease", handle))
            self._call("cuMemMap", base, ctypes.c_size_t(size), ctypes.c_size_t(0), handle, *_zeros(1))
            undo.append(("cuMemUnmap", base, ctypes.c_size_t(size)))
            access = AccessDesc(location=location, flags=READ_WRITE)
            self._call(
                "cuMemSetAccess", base, ctypes.c_size_t(size), ctypes.byref(access), ctypes.c_size_t(1)
            )
        except Unsupported:
            free()
            raise
        return Granules(base=base.value, nbytes=size, free=free)

    def _call(self, name: str, *arguments: Any) -> None:
        function = getattr(self._library, name, None)
        if function is None:
            raise Unsupported(f"no guard granules: the CUDA driver has no {name}")
        if status := function(*arguments):
            raise Unsupported(f"no guard granules: {name} gave error {status}")


class GuardGranules(PlainRooms):
    """Rooms of a CUDA device between two granules without memory, flush with the one asked for."""

    def __init__(self, device: Device, *, at_end: bool, driver: Driver | None = None) -> None:
        super().__init__(device)
        self._at_end = at_end
        self._driver = driver or Driver()

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, upload: bool = False) -> Any:
        """Return new memory; what is no upload is aligned to 16 bytes whatever its size."""
        import cupy

        size = math.prod(shape) * dtype.itemsize
        if size == 0:
            return cupy.empty(shape, dtype)
        cuda, number = cupy.cuda, cupy.cuda.Device().id
        held = self._driver.map_between_guards(size, device_id=number)
        used = size if upload else padded(size)
        address = held.base + (held.nbytes - used if self._at_end else 0)
        owner = _Owner()
        weakref.finalize(owner, _free_when_idle, held)
        memory = cuda.UnownedMemory(address, size, owner, number)
        return cupy.ndarray(shape, dtype, cuda.MemoryPointer(memory, 0))


class _Owner:
    """Lives as long as an array over its memory."""


def _free_when_idle(held: Granules) -> None:
    import cupy

    # kernels may still run on it; a context that is lost frees everything itself
    with contextlib.suppress(Exception):
        cupy.cuda.Device().synchronize()
        held.free()


def _zeros(count: int) -> list[Any]:
    return [ctypes.c_uint64(0)] * count
