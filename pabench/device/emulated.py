# SPDX-License-Identifier: Apache-2.0
"""The emulated device: kernel files compiled as C++20, each CUDA thread a fiber (the folder emulator)."""

from __future__ import annotations

import ctypes
import math
import re
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pabench.cores import usable_cores
from pabench.device.arguments import MAX_SHARED_BYTES, check_limits, check_scalars, check_signature
from pabench.device.base import MAX_ROOM_BYTES, DeviceLimits, KernelSource, Launch, Rooms
from pabench.device.cache import cached_file, check_cache, content_key
from pabench.device.compiler import FLAGS, Compiler, compile_shared, find_compiler, processor_key
from pabench.device.headers import emulator_dir, emulator_texts, header_texts, include_dirs
from pabench.errors import CompileError, DeviceFault, EnvironmentRefused, LaunchError
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.resources import resource_dir

ENTRY = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^;{]*?\)\s+)?(\w+)\s*\(')
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
RUNTIME_FLAGS = ("-O3", "-fvisibility=default")
KERNEL_FLAGS = ("-Wl,-z,defs",)
MAX_PARAMETERS = 64
MAX_BLOCKS = 2**24
"""Blocks of one launch; their order is held in memory."""
POISON = 0xFF
LIMITS = DeviceLimits(
    multiprocessors=1, shared_bytes_per_block=MAX_SHARED_BYTES, shared_bytes_per_sm=MAX_SHARED_BYTES + 1024
)
"""Shared memory of an sm_90; one multiprocessor, so that small cases fill it as large ones fill a GPU."""
POLL_SECONDS = 60

# by name, which is a hash of the content: kernels find their runtime by its name, so that a second copy of it
# from another folder would leave them with the first
_libraries: dict[str, ctypes.CDLL] = {}
_libraries_lock = threading.Lock()


class NativeLaunch(ctypes.Structure):
    """``PabEmuLaunch`` of emulator/runtime.cpp."""

    _fields_ = (
        ("invoke", ctypes.c_void_p),
        ("args", ctypes.c_void_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("workers", ctypes.c_uint),
        ("poll_seconds", ctypes.c_uint),
        ("message_bytes", ctypes.c_uint),
        ("seed", ctypes.c_ulonglong),
        ("message", ctypes.c_void_p),
    )


class EmulatedModule:
    """A kernel file as a loaded shared library."""

    def __init__(
        self, library: ctypes.CDLL, runtime: ctypes.CDLL, source: KernelSource, device: EmulatedDevice
    ):
        self._library = library
        self._runtime = runtime
        self._source = source
        self._device = device
        self._signatures: dict[str, list[tuple[str, int]]] = {}

    def launch(self, launch: Launch) -> None:
        """Run one kernel to its end; raises ``LaunchError`` or ``DeviceFault``."""
        self._device.asked.add(self._source.path.name)
        check_limits(launch)
        blocks = math.prod(launch.grid)
        if blocks > MAX_BLOCKS:
            raise LaunchError(f"{launch.entry}: grid of {blocks} blocks: must be at most {MAX_BLOCKS} here")
        check_scalars(launch)
        signature = [("p" if kind == "c" else kind, size) for kind, size in self._signature(launch.entry)]
        self._check(launch, signature)
        held = [self._argument(launch, position, arg) for position, arg in enumerate(launch.args)]
        pointers = (ctypes.c_void_p * max(1, len(held)))(*(ctypes.addressof(value) for value in held))
        message = ctypes.create_string_buffer(1024)
        asked = NativeLaunch(
            invoke=ctypes.cast(getattr(self._library, f"pab_emu_invoke_{launch.entry}"), ctypes.c_void_p),
            args=ctypes.cast(pointers, ctypes.c_void_p),
            grid=launch.grid,
            block=launch.block,
            shared_bytes=self._shared_bytes(launch),
            workers=self._device.workers,
            poll_seconds=self._device.poll_seconds,
            message_bytes=len(message),
            seed=self._device.seed,
            message=ctypes.cast(message, ctypes.c_void_p),
        )
        self._device._start(self._runtime, asked, launch, self._source, message, self._constant(launch.entry))

    def _check(self, launch: Launch, signature: Sequence[tuple[str, int]]) -> None:
        """Raise ``LaunchError`` unless the arguments fit the kernel's parameters."""
        check_signature(launch, signature)

    def _shared_bytes(self, launch: Launch) -> int:
        """Shared memory of a block, of whatever kind."""
        return launch.shared_bytes

    def _constant(self, entry: str) -> tuple[bool, ...]:
        """For each parameter, whether it is a pointer to const."""
        return tuple(kind == "c" for kind, _ in self._signature(entry))

    def _signature(self, entry: str) -> list[tuple[str, int]]:
        if entry not in self._signatures:
            try:
                describe = getattr(self._library, f"pab_emu_signature_{entry}")
            except AttributeError:
                raise LaunchError(f"{self._source.path.name} has no kernel {entry!r}") from None
            codes = (ctypes.c_int * MAX_PARAMETERS)()
            count = describe(codes)
            self._signatures[entry] = [(chr(code >> 16), code & 0xFFFF) for code in codes[:count]]
        return self._signatures[entry]

    def _argument(self, launch: Launch, position: int, arg: Any) -> Any:
        if isinstance(arg, np.ndarray):
            return ctypes.c_void_p(arg.ctypes.data)
        if isinstance(arg, np.generic):
            return ctypes.create_string_buffer(arg.tobytes(), arg.dtype.itemsize)
        message = f"argument {position} is not an array of the emulated device: {type(arg).__module__}"
        raise LaunchError(f"{launch.entry}: {message}")


class EmulatedDevice:
    """Implements ``Device`` on the host; arrays are numpy arrays.

    Args:
        seed: drives the order of blocks, warps and lanes.
        workers: OS threads; default one per core.
        kernels: folder of kernels, by default the project's ``kernels_cuda``.
        flags: further compiler flags, for instance ``-DPAB_EMU_UCONTEXT`` for portable fibers.
        poll_seconds: how long a kernel may poll memory before the launch ends as a fault.

    Attributes:
        asked: names of the kernel files that were loaded or launched; whoever looks may clear it.
        emulator: folder of the device's own C++.

    Raises:
        InvalidCase: ``seed``, ``workers`` or ``poll_seconds`` is out of range.
    """

    name = "emulated"
    module_type = EmulatedModule
    limits = LIMITS
    rooms: Rooms | None = None

    def __init__(
        self,
        *,
        seed: int = 0,
        workers: int | None = None,
        kernels: Path | None = None,
        flags: Sequence[str] = (),
        poll_seconds: int = POLL_SECONDS,
    ) -> None:
        self.seed = whole_number("seed", seed, low=0, high=2**64 - 1)
        cores = usable_cores()
        self.workers = cores if workers is None else whole_number("workers", workers, low=1, high=1024)
        self.poll_seconds = whole_number("poll_seconds", poll_seconds, low=1, high=10**6)
        self.kernels = kernels or resource_dir("kernels_cuda")
        self.emulator = emulator_dir()
        self.asked: set[str] = set()
        self._flags = tuple(flags)
        try:
            found = self._compiler.version
        except EnvironmentRefused:
            found = "no C++ compiler"  # which a subject without kernels does not need
        self.description = f"emulated CUDA device on {self.workers} cores ({found})"
        self._modules: dict[tuple[Path, Path, tuple[tuple[str, str], ...]], EmulatedModule] = {}
        self._broken: dict[tuple[Path, Path, tuple[tuple[str, str], ...]], CompileError] = {}

    def ready(self) -> None:
        """See ``Device``.

        Raises:
            EnvironmentRefused: there is no C++ compiler, or the cache folder is one that others can write.
        """
        check_cache()
        _ = self._compiler

    @cached_property
    def _compiler(self) -> Compiler:
        return find_compiler()

    def allocate(self, nbytes: int) -> Array:
        """Return new memory."""
        return np.empty(nbytes, np.uint8)

    def to_device(self, array: Array) -> Array:
        """Return ``array`` itself, made contiguous: host memory is device memory here; in rooms, a copy."""
        if self.rooms is None or array.nbytes > MAX_ROOM_BYTES:
            return np.ascontiguousarray(array)
        held = self._take(array.shape, array.dtype, upload=True)
        held[...] = array
        self.rooms.uploaded(array, held)
        return held

    def to_host(self, array: Array) -> Array:
        """Return a copy."""
        return array.copy()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return new memory with every byte 0xFF."""
        fresh = self._take(shape, np.dtype(dtype))
        fresh.reshape(-1).view(np.uint8).fill(POISON)
        return fresh

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return new memory of zeros."""
        fresh = self._take(shape, np.dtype(dtype))
        fresh.fill(0)
        return fresh

    def _take(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, upload: bool = False) -> Array:
        nbytes = math.prod(shape) * dtype.itemsize
        if self.rooms is not None and nbytes <= MAX_ROOM_BYTES:
            held: Array = self.rooms.take(shape, dtype, upload=upload)
            return held
        return self.allocate(nbytes).view(dtype).reshape(shape)

    def reschedule(self, seed: int) -> None:
        """Use another order of blocks, warps and lanes from the next launch on."""
        self.seed = whole_number("seed", seed, low=0, high=2**64 - 1)

    def synchronize(self) -> None:
        """Launches run to their end, so there is nothing to wait for."""

    def load(self, source: KernelSource) -> EmulatedModule:
        """Compile ``source`` or fetch it from the cache; a device reads a source's files once."""
        self.asked.add(source.path.name)
        key = (source.path, source.include_dir, tuple(sorted(source.defines.items())))
        if key in self._broken:
            raise self._broken[key]
        if key not in self._modules:
            path = self._build_runtime()
            runtime = _load(path)
            try:
                library = _load(self._build_kernel(source, path))
            except CompileError as error:
                # a search for the smallest failing case asks again and again
                self._broken[key] = error
                raise
            self._modules[key] = self.module_type(library, runtime, source, self)
        return self._modules[key]

    def _start(
        self,
        runtime: ctypes.CDLL,
        asked: NativeLaunch,
        launch: Launch,
        source: KernelSource,
        message: ctypes.Array[ctypes.c_char],
        constant: Sequence[bool],
    ) -> None:
        """Run a launch whose arguments have been checked; the checked device does more here."""
        if runtime.pab_emu_launch(ctypes.byref(asked)):
            raise DeviceFault(f"{launch.entry}: {message.value.decode(errors='replace')}")

    def _build_runtime(self) -> Path:
        source, ours = self.emulator / "runtime.cpp", resource_dir("kernels_cuda")
        try:
            key = content_key([*self._environment(), *RUNTIME_FLAGS, *emulator_texts(self.emulator)])
        except OSError as error:
            raise EnvironmentRefused(
                f"the emulated device's own sources cannot be read: {error}", hint="reinstall pabench"
            ) from None
        name = f"runtime-{key}.so"
        folders = [f"-I{ours}", f"-I{self.emulator.parent}"]
        arguments = [*RUNTIME_FLAGS, *folders, str(source), f"-Wl,-soname,{name}", *self._flags]

        def make(out: Path) -> None:
            try:
                compile_shared(self._compiler, arguments, out, what="emulator/runtime.cpp")
            except CompileError as error:
                # it is the same for every kernel: no verdict on one
                raise EnvironmentRefused(
                    f"the emulated device cannot be compiled here: {error}",
                    hint="it needs a compiler of C++20, such as g++ 11: set CXX",
                ) from None

        return cached_file(name, make)

    def _build_kernel(self, source: KernelSource, runtime: Path) -> Path:
        try:
            text = source.path.read_text(encoding="utf-8")
            folders = include_dirs(source.include_dir)
            headers = header_texts(*folders, beside=source.path.parent)
        except (OSError, UnicodeDecodeError) as error:
            raise CompileError(f"kernel file {source.path} cannot be read: {error}") from None
        entries = ENTRY.findall(COMMENT.sub(" ", text))
        if not entries:
            raise CompileError(f'{source.path.name} has no extern "C" __global__ kernel')
        defines = [f"-D{name}={value}" for name, value in sorted(source.defines.items())]
        key = content_key([*self._environment(), *KERNEL_FLAGS, runtime.name, *headers, text, *defines])

        def make(out: Path) -> None:
            unit = out.with_suffix(".cpp")
            exports = "".join(f"PAB_EMU_ENTRY({entry})\n" for entry in entries)
            unit.write_text(
                f'#include "emulator/cuda.h"\n#include "{source.path.resolve()}"\n'
                f'#include "emulator/entry.h"\n#pragma GCC visibility push(default)\n{exports}',
                encoding="utf-8",
            )
            try:
                includes = [f"-I{folder}" for folder in (*folders, self.emulator.parent)]
                self._compile(unit, [*defines, *includes], runtime, out, what=source.path.name)
            finally:
                unit.unlink(missing_ok=True)

        return cached_file(f"{source.path.stem}-{key}.so", make)

    def _compile(self, unit: Path, arguments: list[str], runtime: Path, out: Path, *, what: str) -> None:
        # linked to its own runtime by name: a second runtime in the process stays apart
        linked = [*arguments, str(unit), str(runtime), *KERNEL_FLAGS, *self._flags]
        compile_shared(self._compiler, linked, out, what=what)

    def _environment(self) -> list[str]:
        return [self._compiler.version, *self._compiler.command, *FLAGS, *self._flags, processor_key()]


def _load(path: Path) -> ctypes.CDLL:
    with _libraries_lock:
        if path.name not in _libraries:
            try:
                _libraries[path.name] = ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
            except OSError as error:
                raise EnvironmentRefused(
                    f"compiled kernel {path} cannot be loaded: {error}",
                    hint="delete that file, or set PABENCH_CACHE to a folder that allows execution",
                ) from None
        return _libraries[path.name]
