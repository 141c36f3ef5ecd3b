# SPDX-License-Identifier: Apache-2.0
"""Streams, events, graphs and launches of the stub."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

from pabench.device import cuda_overlap
from pabench.device.base import KernelSource, Launch
from pabench.device.emulated import EmulatedDevice
from pabench.errors import DeviceFault

with contextlib.suppress(ImportError):
    nvrtc = importlib.import_module("cupy_backends.cuda.libs.nvrtc")

PROPERTIES = {
    "name": b"Stand-in 3000",
    "major": 9,
    "minor": 0,
    "multiProcessorCount": 2,
    "sharedMemPerBlockOptin": 232448,
    "sharedMemPerMultiprocessor": 233472,
    "l2CacheSize": 4096,
}
FREE_BYTES = 2**28
_device = EmulatedDevice()


class CUDADriverError(RuntimeError):
    """Of a launch."""


class CUDARuntimeError(RuntimeError):
    """Of anything else."""


class CompileException(Exception):
    """Of NVRTC."""


def _device_count() -> int:
    _initialise()
    return int(os.environ.get("STAND_IN_GPUS", "1"))


_initialised: list[int] = []


def _initialise() -> None:
    """CUDA belongs to the process that first asks for it: a fork of that one cannot use it."""
    if not _initialised:
        _initialised.append(os.getpid())
    if _initialised[0] != os.getpid():
        raise CUDARuntimeError("cudaErrorInitializationError: initialization error")


def _properties(number: int) -> dict[str, Any]:
    _initialise()
    return PROPERTIES


driver = SimpleNamespace(CUDADriverError=CUDADriverError)
compiler = SimpleNamespace(CompileException=CompileException)
runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=_device_count,
    getDeviceProperties=_properties,
    driverGetVersion=lambda: 13020,
    memGetInfo=lambda: (FREE_BYTES, 2 * FREE_BYTES),
)


class Device:
    """The only device."""

    id = 0

    def synchronize(self) -> None:
        """Raise what a launch has left behind."""
        if Stream.capturing():
            Stream.current()._broken = True
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
            )
        if _faults:
            raise CUDARuntimeError(f"cudaErrorLaunchFailure: {_faults[0]}")


_faults: list[str] = []


def compiled(code: str, options: tuple[str, ...]) -> Any:
    """Compile for the host what RawModule was given."""
    include = next(Path(option[2:]) for option in options if option.startswith("-I"))
    words = [option[2:].partition("=") for option in options if option.startswith("-D")]
    folder = Path(tempfile.gettempdir()) / f"stub-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    path = folder / f"{hashlib.sha256(code.encode()).hexdigest()[:16]}.cu"
    if not path.exists():
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(code, encoding="utf-8")
        draft.replace(path)
    defines = {name: value for name, _, value in words if name != "PAB_HEADERS"}
    return _device.load(KernelSource(path=path, include_dir=include, defines=defines))


_kernels: dict[int, Kernel] = {}


def _launch_overlapping(function: int, launch: Launch, stream: int) -> None:
    """Take the place of the driver's own call: one kernel after the other is a legal order."""
    size = launch.shared_bytes
    _kernels[function](launch.grid, launch.block, tuple(launch.args), shared_mem=size)


cuda_overlap.launch_overlapping = _launch_overlapping


class Kernel:
    """An entry point."""

    def __init__(self, module: Any, name: str) -> None:
        self._module, self._name = module, name
        self.max_dynamic_shared_size_bytes = 0
        self.kernel = SimpleNamespace(ptr=id(self))
        _kernels[id(self)] = self

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int) -> None:
        """Run, or record while the current stream captures."""
        _initialise()
        launch = Launch(entry=self._name, grid=grid, block=block, args=args, shared_bytes=shared_mem)
        Stream.current()._take(lambda: self._launch(launch))

    def _launch(self, launch: Launch) -> None:
        try:
            self._module.launch(launch)
        except DeviceFault as fault:
            _faults.append(str(fault))


class UnownedMemory:
    """Memory of somebody, by address; keeps its owner alive."""

    def __init__(self, ptr: int, size: int, owner: Any, device_id: int = -1) -> None:
        self.ptr, self.size, self.owner = ptr, size, owner


class MemoryPointer:
    """A place in memory, as a buffer that numpy takes."""

    def __new__(cls, memory: UnownedMemory, offset: int) -> Any:
        """Return the buffer."""
        buffer = (ctypes.c_ubyte * (memory.size - offset)).from_address(memory.ptr + offset)
        buffer.memory = memory  # type: ignore[attr-defined]
        return buffer


class _Pinned(ctypes.Array):  # type: ignore[type-arg]
    _type_ = ctypes.c_ubyte
    _length_ = 256

    @property
    def ptr(self) -> int:
        """The address."""
        return ctypes.addressof(self)


def alloc_pinned_memory(size: int) -> Any:
    """Return memory of the host, a buffer with ``ptr``."""
    return _Pinned()


class Stream:
    """A queue whose work is done when it is queued, or recorded while it captures."""

    null: Stream
    _stack: list[Stream] = []  # noqa: RUF012
    _capture: list[Callable[[], None]] | None = None
    _broken = False

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.non_blocking = non_blocking

    @classmethod
    def current(cls) -> Stream:
        """Return the stream in use."""
        return cls._stack[-1] if cls._stack else cls.null

    @classmethod
    def capturing(cls) -> bool:
        """Whether a stream in use captures."""
        return any(stream._capture is not None for stream in cls._stack)

    def __enter__(self) -> Stream:
        Stream._stack.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Stream._stack.pop()

    def begin_capture(self, mode: int | None = None) -> None:
        """Record from now on."""
        if self._broken:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: a capture before failed")
        if not self.non_blocking:
            raise CUDARuntimeError("cudaErrorStreamCaptureImplicit: a blocking stream")
        self._capture = []

    def end_capture(self) -> Graph:
        """Return what was recorded."""
        if self._capture is None:
            raise CUDARuntimeError("cudaErrorIllegalState: no capture")
        graph, self._capture = Graph(self._capture), None
        if self._broken:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: a capture failed")
        return graph

    def synchronize(self) -> None:
        """All is done already."""

    def _take(self, work: Callable[[], None]) -> None:
        if self._capture is None:
            work()
        else:
            self._capture.append(work)


Stream.null = Stream(null=True)


class Graph:
    """Recorded launches."""

    def __init__(self, work: list[Callable[[], None]]) -> None:
        self._work = work

    def launch(self, stream: Stream | None = None) -> None:
        """Run them in their order."""
        for one in self._work:
            one()


class Event:
    """A moment."""

    def record(self, stream: Stream | None = None) -> None:
        """Note the time."""
        self.at = time.perf_counter_ns()

    def synchronize(self) -> None:
        """The moment has passed."""


def set_allocator(allocator: Callable[[int], Any] | None = None) -> None:
    """Each array is an allocation of its own here, pool or not."""


def get_elapsed_time(start: Event, end: Event) -> float:
    """Return milliseconds."""
    return (end.at - start.at) / 1e6


def get_current_stream() -> Any:
    """Return the stream in use, with a handle."""
    return SimpleNamespace(ptr=id(Stream.current()))
