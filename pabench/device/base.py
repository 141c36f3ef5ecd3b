# SPDX-License-Identifier: Apache-2.0
"""The protocol of a device: memory, compile, launch, synchronise.

Implementations: ``cuda`` (CuPy), ``emulated`` (the same sources as C++ on the host), ``ptx:...`` (what a
compiler for GPUs makes of any source, on the host).  Arrays of a device are numpy arrays or arrays of a
library with numpy's slicing and ``dtype``; nothing here knows what attention is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pabench.problem.dtypes import Array

Dim3 = tuple[int, int, int]
MAX_ROOM_BYTES = 2**22
"""Larger arrays, which are pools of many pages, are not copied for the sake of watching them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSource:
    """One kernel file and the macros that fix its compile-time shape.

    Attributes:
        path: the ``.cu`` file.
        defines: macro name to value, for instance ``{"PAB_HEAD_DIM": "128"}``.
        include_dir: folder of kernels whose headers go first; what it has not is the project's own.
        architecture: the one that it is for, such as ``sm_90a``; None where any will do.
    """

    path: Path
    include_dir: Path
    defines: Mapping[str, str] = field(default_factory=dict)
    architecture: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Grid, block, bytes of dynamic shared memory and arguments of one kernel launch.

    Arguments are device arrays or numpy scalars whose type is the parameter's (``np.int32(3)``).  ``names``
    are those of the parameters, where the source does not tell them; ``held`` the arrays by name that a
    structure among the arguments points to.  ``overlaps``: the kernel waits by itself (``grid_wait``) for
    those before it, so that it may be launched while they run, where the device can.
    """

    entry: str
    grid: Dim3
    block: Dim3
    args: Sequence[Any]
    shared_bytes: int = 0
    names: Sequence[str] = ()
    held: Mapping[str, Any] = field(default_factory=dict)
    overlaps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLimits:
    """What a launch plan is fitted to.

    Attributes:
        multiprocessors: that run blocks at the same time.
        shared_bytes_per_block: dynamic shared memory that one block can have.
        shared_bytes_per_sm: shared memory of a multiprocessor, for all its blocks.
    """

    multiprocessors: int
    shared_bytes_per_block: int
    shared_bytes_per_sm: int


def device_kind(name: str) -> str:
    """Return what kind of device a name is one of: ``cuda``, ``emulated`` or ``ptx``."""
    return name.split(":")[0]


class Module(Protocol):
    """A compiled kernel file."""

    def launch(self, launch: Launch) -> None:
        """Run one kernel; raises ``LaunchError`` or ``DeviceFault``."""


class Rooms(Protocol):
    """Where new memory of a device lies while somebody watches; see ``rooms.py``."""

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, upload: bool = False) -> Any:
        """Return new device memory; with ``upload``, for a copy of an array of the host."""

    def uploaded(self, host: Array, held: Any) -> None:
        """Hear that ``held`` is now a copy of ``host``."""


class Device(Protocol):
    """A place where kernels run.

    Attributes:
        name: ``cuda``, ``emulated`` or such as ``ptx:sm_80``; see ``device_kind``.
        description: hardware or compiler, in words.
        kernels: the folder of kernels and headers in use.
        rooms: where ``to_device``, ``empty`` and ``zeros`` put memory, or None for wherever they like; arrays
            above ``MAX_ROOM_BYTES`` are not put into rooms.
    """

    name: str
    description: str
    kernels: Path
    rooms: Rooms | None

    @property
    def limits(self) -> DeviceLimits:
        """What launch plans are fitted to."""

    def allocate(self, nbytes: int) -> Any:
        """Return that much new memory as uint8, outside of any rooms; nothing is said of its contents."""

    def to_device(self, array: Array) -> Any:
        """Return ``array`` as device memory; it may share memory with ``array``, so neither is written."""

    def to_host(self, array: Any) -> Array:
        """Return a numpy copy of a device array."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return new device memory with every byte 0xFF, which is NaN in every floating type."""

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return new device memory of zeros."""

    def ready(self) -> None:
        """Say that kernels will run; raises ``EnvironmentRefused`` where they cannot."""

    def load(self, source: KernelSource) -> Module:
        """Compile ``source`` or fetch it from the cache; raises ``CompileError``."""

    def reschedule(self, seed: int) -> None:
        """Choose another legal order of blocks, warps and lanes, where the device lets us."""

    def synchronize(self) -> None:
        """Wait until all launches have finished."""
