# SPDX-License-Identifier: Apache-2.0
"""The CUDA device: CuPy for memory and launches, NVRTC for compilation."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pabench.device import cuda_overlap
from pabench.device.architecture import gpu_capability
from pabench.device.arguments import check_limits, check_scalars
from pabench.device.base import MAX_ROOM_BYTES, DeviceLimits, KernelSource, Launch, Rooms
from pabench.device.compiler import first_error
from pabench.device.cupy_home import settle_cupy
from pabench.device.nvrtc import compile_cubin, header_key, nvrtc_options
from pabench.errors import CompileError, DeviceFault, EnvironmentRefused, LaunchError
from pabench.problem.dtypes import Array
from pabench.resources import resource_dir

LARGE_BYTES = 2**26
"""Arrays above this are copied as they lie: for others CuPy keeps pinned memory of the same size."""
STATIC_SHARED_LIMIT = 48 * 1024
"""Dynamic shared memory above this must be asked for, kernel by kernel."""


class CudaModule:
    """A kernel file as a CuPy RawModule."""

    def __init__(self, module: Any, source: KernelSource, file: Any = None) -> None:
        self._module = module
        self._source = source
        self._file = file  # of the binary: read when a kernel is first used
        self._kernels: dict[str, Any] = {}

    def launch(self, launch: Launch) -> None:
        """Queue one kernel on the current stream."""
        import cupy

        check_limits(launch)
        check_scalars(launch)
        for position, arg in enumerate(launch.args):
            # CuPy may take other things too, but by value or as a null pointer
            if not isinstance(arg, cupy.ndarray | np.generic):
                what = f"{type(arg).__module__}.{type(arg).__name__}"
                rule = "must be an array of the CUDA device or a numpy scalar"
                raise LaunchError(f"{launch.entry}: argument {position} is a {what}: {rule}")
        try:
            kernel = self._kernel(launch)
            if launch.overlaps and self._can_overlap:
                return cuda_overlap.launch_overlapping(
                    kernel.kernel.ptr, launch, cupy.cuda.get_current_stream().ptr
                )
            kernel(launch.grid, launch.block, tuple(map(_given, launch.args)), shared_mem=launch.shared_bytes)
        except (cupy.cuda.driver.CUDADriverError, cupy.cuda.runtime.CUDARuntimeError) as error:
            raise LaunchError(f"{self._source.path.name}, {launch.entry}: {error}") from error

    @cached_property
    def _can_overlap(self) -> bool:
        """Whether kernels may begin while those before them run; elsewhere they come after."""
        return gpu_capability() >= cuda_overlap.FIRST_CAPABILITY

    def _kernel(self, launch: Launch) -> Any:
        if launch.entry not in self._kernels:
            # CuPy looks the name up when the kernel is first used
            self._kernels[launch.entry] = self._module.get_function(launch.entry)
        kernel = self._kernels[launch.entry]
        if launch.shared_bytes > STATIC_SHARED_LIMIT:
            kernel.max_dynamic_shared_size_bytes = launch.shared_bytes
        return kernel


class CudaDevice:
    """Implements ``Device`` on the current CUDA device; arrays are CuPy arrays.

    Args:
        kernels: folder with the kernels and their headers, by default the project's ``kernels_cuda``.
        line_info: let tools such as compute-sanitizer name lines of the source.

    Raises:
        EnvironmentRefused: CuPy is missing or sees no GPU.
    """

    name = "cuda"
    rooms: Rooms | None = None

    def __init__(self, *, kernels: Path | None = None, line_info: bool = False) -> None:
        self._options = ("--generate-line-info",) if line_info else ()
        self.kernels = kernels or resource_dir("kernels_cuda")
        why = why_no_cuda()
        if why:
            raise EnvironmentRefused(f"no CUDA device: {why}", hint="use --device emulated")
        import cupy

        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        driver = cupy.cuda.runtime.driverGetVersion()
        self.description = (
            f"{properties['name'].decode()}, CUDA driver {driver // 1000}.{driver % 1000 // 10}"
        )

    @property
    def limits(self) -> DeviceLimits:
        """Multiprocessors and shared memory of the current GPU."""
        import cupy

        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        return DeviceLimits(
            multiprocessors=properties["multiProcessorCount"],
            shared_bytes_per_block=properties["sharedMemPerBlockOptin"],
            shared_bytes_per_sm=properties["sharedMemPerMultiprocessor"],
        )

    def ready(self) -> None:
        """See ``Device``; that there is a GPU has been found before."""

    def allocate(self, nbytes: int) -> Any:
        """Return new GPU memory."""
        import cupy

        with _enough_memory():
            return cupy.empty((nbytes,), np.uint8)

    def to_device(self, array: Array) -> Any:
        """Copy ``array`` to the GPU; what is there already stays where it is."""
        import cupy

        if isinstance(array, cupy.ndarray):
            return array
        held = self._room(array.shape, array.dtype, upload=True)
        if held is not None and self.rooms is not None:
            held.set(np.ascontiguousarray(array))
            self.rooms.uploaded(array, held)
            return held
        with _enough_memory():
            array = np.ascontiguousarray(array)
            if array.nbytes <= LARGE_BYTES:
                return cupy.asarray(array)
            copy = cupy.empty(array.shape, array.dtype)
            copy.set(array)
            return copy

    def to_host(self, array: Any) -> Array:
        """Copy ``array`` to the host, after all queued work."""
        import cupy

        try:
            return np.asarray(cupy.asnumpy(array))
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceFault(f"the CUDA device reports: {error}") from error

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return new GPU memory with every byte 0xFF."""
        import cupy

        array = self._room(shape, np.dtype(dtype))
        if array is None:
            with _enough_memory():
                array = cupy.empty(shape, dtype)
        if array.nbytes:
            array.data.memset(0xFF, array.nbytes)
        return array

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return new GPU memory of zeros."""
        import cupy

        array = self._room(shape, np.dtype(dtype))
        if array is None:
            with _enough_memory():
                return cupy.zeros(shape, dtype)
        if array.nbytes:
            array.data.memset(0, array.nbytes)
        return array

    def _room(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, upload: bool = False) -> Any:
        """Return memory in a room, or None where there are none."""
        if self.rooms is None or math.prod(shape) * dtype.itemsize > MAX_ROOM_BYTES:
            return None
        return self.rooms.take(shape, dtype, upload=upload)

    def reschedule(self, seed: int) -> None:
        """Do nothing: hardware chooses its own order."""

    def synchronize(self) -> None:
        """Wait for the current device; a fault of an earlier kernel is raised here."""
        import cupy

        try:
            cupy.cuda.Device().synchronize()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceFault(f"the CUDA device reports: {error}") from error

    def load(self, source: KernelSource) -> CudaModule:
        """Compile ``source`` with NVRTC; CuPy keeps the binary in its cache."""
        import cupy

        if source.architecture is not None:
            return _for_one_architecture(source, source.architecture)
        # CuPy's cache looks at the text and the options only, so a changed header must change an option
        defines = {**source.defines, "PAB_HEADERS": f'"{header_key(source)}"'}
        options = (*nvrtc_options(replace(source, defines=defines)), *self._options)
        try:
            text = source.path.read_text(encoding="utf-8")
            module = cupy.RawModule(code=text, options=options, backend="nvrtc")
            module.compile()
        except (OSError, UnicodeDecodeError) as error:
            raise CompileError(f"kernel file {source.path} cannot be read: {error}") from None
        except cupy.cuda.compiler.CompileException as error:
            raise CompileError(f"{source.path.name} does not compile: {first_error(str(error))}") from error
        except (ImportError, RuntimeError) as error:
            raise EnvironmentRefused(f"{source.path.name} cannot be compiled here: {error}") from error
        return CudaModule(module, source)


def _given(arg: Any) -> Any:
    """Return an argument as CuPy takes it: a structure as an array of the host, which it passes by value."""
    return np.frombuffer(arg.tobytes(), np.uint8) if isinstance(arg, np.void) else arg


def _for_one_architecture(source: KernelSource, architecture: str) -> CudaModule:
    """Return a module of what one architecture alone has: CuPy names that of a GPU without its letter."""
    import cupy

    file = tempfile.NamedTemporaryFile(prefix="pabench-", suffix=".cubin")  # noqa: SIM115  the module's
    file.write(compile_cubin(source, architecture).image)
    file.flush()
    return CudaModule(cupy.RawModule(path=file.name), source, file)


@contextlib.contextmanager
def _enough_memory() -> Iterator[None]:
    """Turn CuPy's lack of memory into a clean refusal."""
    try:
        yield
    except MemoryError as error:
        raise EnvironmentRefused(f"the GPU has too little memory: {error}") from None


def why_no_cuda() -> str | None:
    """Return why there is no usable CUDA device, or None when there is one."""
    settle_cupy()
    try:
        import cupy
    except Exception as error:
        # besides ImportError whatever the making of its folder, or a broken library, raises
        return f"CuPy cannot be imported ({error})"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return str(error)
    return None if count else "CuPy sees no GPU"
