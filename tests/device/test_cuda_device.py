# SPDX-License-Identifier: Apache-2.0
"""The CUDA device without a GPU: refusals, and what it asks of CuPy, seen through a stub."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pabench.cli.main import run
from pabench.device.base import DeviceLimits, KernelSource, Launch
from pabench.device.cuda import CudaDevice, CudaModule, why_no_cuda
from pabench.device.registry import open_device
from pabench.errors import (
    CompileError,
    DeviceFault,
    EnvironmentRefused,
    LaunchError,
    PabenchError,
    UnknownName,
    UsageError,
)
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.dtypes import DTYPES
from pabench.resources import resource_dir
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend

KERNELS_CUDA = resource_dir("kernels_cuda")
needs_gpu = pytest.mark.skipif(why_no_cuda() is not None, reason=f"needs a GPU: {why_no_cuda()}")
lacks_gpu = pytest.mark.skipif(why_no_cuda() is None, reason="this machine has a GPU")


PROPERTIES = {
    "name": b"Stand-in 3000",
    "multiProcessorCount": 132,
    "sharedMemPerBlockOptin": 232448,
    "sharedMemPerMultiprocessor": 233472,
}


class DriverError(RuntimeError):
    pass


class RuntimeApiError(RuntimeError):
    pass


class CompileFailed(Exception):
    pass


class GpuArray(np.ndarray[Any, np.dtype[Any]]):
    """Stands for cupy.ndarray."""


class Kernel:
    def __init__(self, cupy: FakeCupy, name: str) -> None:
        self.cupy, self.name = cupy, name
        self.max_dynamic_shared_size_bytes = 0

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int) -> None:
        if self.name == "missing":
            raise DriverError("CUDA_ERROR_NOT_FOUND: named symbol not found")
        allowed = max(48 * 1024, self.max_dynamic_shared_size_bytes)
        if shared_mem > allowed:
            raise DriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self.cupy.launched.append((self.name, grid, block, args, shared_mem))


class FakeCupy(SimpleNamespace):
    """The few names of CuPy that the device uses."""

    def __init__(self, *, count: int = 1, broken: Exception | None = None) -> None:
        super().__init__()
        self.launched: list[Any] = []
        self.modules: list[dict[str, Any]] = []
        self.fail: Exception | None = None
        self.ndarray = GpuArray
        self.full = False

        def device_count() -> int:
            if broken:
                raise broken
            return count

        def synchronize() -> None:
            if self.fail:
                raise self.fail

        self.cuda = SimpleNamespace(
            driver=SimpleNamespace(CUDADriverError=DriverError),
            runtime=SimpleNamespace(
                CUDARuntimeError=RuntimeApiError,
                getDeviceCount=device_count,
                getDeviceProperties=lambda number: PROPERTIES,
                driverGetVersion=lambda: 13020,
            ),
            compiler=SimpleNamespace(CompileException=CompileFailed),
            Device=lambda: SimpleNamespace(id=0, synchronize=synchronize),
        )

    def RawModule(self, **given: Any) -> Any:  # noqa: N802
        self.modules.append(given)

        def compile_() -> None:
            if self.fail:
                raise self.fail

        return SimpleNamespace(compile=compile_, get_function=lambda name: Kernel(self, name))

    def asarray(self, array: np.ndarray) -> Any:
        if self.full:
            raise MemoryError("Out of memory allocating 8 bytes")
        return np.array(array).view(GpuArray)

    def asnumpy(self, array: Any) -> Any:
        if self.fail:
            raise self.fail
        return np.array(array)

    def zeros(self, shape: Any, dtype: Any) -> Any:
        return self.asarray(np.zeros(shape, dtype))


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


def kernel_source(folder: Path = KERNELS_CUDA) -> KernelSource:
    return KernelSource(path=folder / "kv_append.cu", include_dir=folder, defines={"PAB_VEC": "4"})


def launch(*args: Any, entry: str = "k", shared_bytes: int = 0) -> Launch:
    return Launch(entry=entry, grid=(3, 1, 1), block=(64, 1, 1), args=args, shared_bytes=shared_bytes)


@pytest.mark.parametrize(
    ("fake", "text"),
    [
        (None, "CuPy cannot be imported"),
        (FakeCupy(count=0), "CuPy sees no GPU"),
        (
            FakeCupy(broken=RuntimeApiError("cudaErrorInsufficientDriver: too old")),
            "cudaErrorInsufficientDriver",
        ),
    ],
)
def test_cuda_device_says_why_there_is_none(
    fake: FakeCupy | None, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake)
    assert text in (why_no_cuda() or "")
    with pytest.raises(EnvironmentRefused, match=r"^no CUDA device: ") as caught:
        CudaDevice()
    assert caught.value.hint == "use --device emulated"
    assert open_device("auto").name == "emulated"
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "--page-sizes", "16", "--lengths", "fixed:len=8", "--batch", "1", "--device", "cuda"]
    assert run([*words, "--in-process", "--out", "out"]) == 7
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_cuda_device_is_chosen_where_it_works(cupy: FakeCupy) -> None:
    assert why_no_cuda() is None
    device = open_device("auto")
    assert (device.name, device.description) == ("cuda", "Stand-in 3000, CUDA driver 13.2")


def test_cuda_device_states_the_limits_of_its_gpu(cupy: FakeCupy) -> None:
    limits = CudaDevice().limits
    assert limits == DeviceLimits(
        multiprocessors=132, shared_bytes_per_block=232448, shared_bytes_per_sm=233472
    )


def test_cuda_device_fills_its_gpu_with_the_tensor_core_kernel(
    cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CudaDevice, "empty", CudaDevice.zeros)  # the stub's memory has no memset
    problem = Problem(num_qo_heads=8, num_kv_heads=2, head_dim=128, page_size=16, dtype="bfloat16")
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(5, 300))))
    plan = RawKernelMmaBackend(CudaDevice()).plan(tensors)
    RawKernelMmaBackend(CudaDevice()).run(plan)
    (first, *_), (name, grid, block, _, shared) = cupy.launched
    assert (first, name) == ("paged_decode_plan", "paged_decode")
    assert (grid, block) == ((2 * 132, 1, 1), (128, 1, 1))
    assert 2 * (shared + 1024) <= 233472


def test_cuda_device_registry_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="did you mean 'emulated'"):
        open_device("emulate")
    with pytest.raises(UsageError, match="must be a folder like kernels_cuda"):
        open_device("emulated", kernels=tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(EnvironmentRefused, match=r"^neither GPU nor emulated device: CXX = 'no-such"):
        open_device("auto")


def test_cuda_device_compiles_with_our_options(cupy: FakeCupy, tmp_path: Path) -> None:
    shutil.copytree(KERNELS_CUDA, tmp_path / "kernels")
    device = CudaDevice(kernels=tmp_path / "kernels")
    for _ in range(2):
        device.load(kernel_source(tmp_path / "kernels"))
        header = tmp_path / "kernels" / "pab" / "storage.cuh"
        header.write_text(header.read_text() + "\n// changed\n")
    first, second = cupy.modules
    assert first["code"] == (KERNELS_CUDA / "kv_append.cu").read_text()
    assert first["backend"] == "nvrtc"
    assert isinstance(first["options"], tuple)
    own = f"-I{tmp_path / 'kernels'}"
    assert first["options"][:3] == ("--std=c++17", own, f"-I{KERNELS_CUDA}")
    assert first["options"][4] == "-DPAB_VEC=4"
    assert first["options"] != second["options"]  # CuPy's cache does not see headers


@pytest.mark.parametrize(
    ("failure", "error", "text"),
    [
        (
            CompileFailed("/tmp/x.cu(3): error: no such thing\n1 error detected"),
            CompileError,
            "kv_append.cu does not compile: /tmp/x.cu(3): error: no such thing",
        ),
        (
            RuntimeError("CuPy failed to load libnvrtc.so.13"),
            EnvironmentRefused,
            "kv_append.cu cannot be compiled here: CuPy failed to load libnvrtc.so.13",
        ),
        (
            DriverError("CUDA_ERROR_NO_BINARY_FOR_GPU"),
            EnvironmentRefused,
            "kv_append.cu cannot be compiled here: CUDA_ERROR_NO_BINARY_FOR_GPU",
        ),
    ],
)
def test_cuda_device_compile_failures(
    cupy: FakeCupy, failure: Exception, error: type[PabenchError], text: str
) -> None:
    cupy.fail = failure
    with pytest.raises(error) as caught:
        CudaDevice().load(kernel_source())
    assert str(caught.value) == text


def test_cuda_device_launches(cupy: FakeCupy) -> None:
    device = CudaDevice()
    module = device.load(kernel_source())
    array = device.to_device(np.arange(4, dtype=np.uint16))
    module.launch(launch(array, np.int32(3), shared_bytes=100))
    module.launch(launch(array[::2], shared_bytes=200_000))  # above 48 KiB it must be asked for
    assert [(name, grid, block, shared) for name, grid, block, _, shared in cupy.launched] == [
        ("k", (3, 1, 1), (64, 1, 1), 100),
        ("k", (3, 1, 1), (64, 1, 1), 200_000),
    ]
    assert isinstance(cupy.launched[0][3], tuple)


@pytest.mark.parametrize(
    ("arg", "text"),
    [
        (3, "argument 1 is the Python number 3"),
        (np.zeros(3), "argument 1 is a numpy.ndarray: must be an array of the CUDA device or a numpy scalar"),
        (None, "argument 1 is a builtins.NoneType: must be an array of the CUDA device"),
        ("text", "argument 1 is a builtins.str: must be"),
    ],
)
def test_cuda_device_refuses_arguments(cupy: FakeCupy, arg: Any, text: str) -> None:
    device = CudaDevice()
    module = device.load(kernel_source())
    with pytest.raises(LaunchError) as caught:
        module.launch(launch(device.zeros((2,), np.dtype(np.int8)), arg))
    assert str(caught.value).startswith(f"k: {text}")
    assert cupy.launched == []


def test_cuda_device_launch_failures(cupy: FakeCupy) -> None:
    module = CudaDevice().load(kernel_source())
    with pytest.raises(LaunchError, match=r"^kv_append\.cu, missing: CUDA_ERROR_NOT_FOUND"):
        module.launch(launch(entry="missing"))
    with pytest.raises(LaunchError, match="must be in 0"):
        module.launch(launch(shared_bytes=10**6))

    class Stingy(Kernel):
        @property
        def max_dynamic_shared_size_bytes(self) -> int:
            return 0

        @max_dynamic_shared_size_bytes.setter
        def max_dynamic_shared_size_bytes(self, size: int) -> None:
            if size:
                raise DriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")

    given = SimpleNamespace(get_function=lambda name: Stingy(cupy, name))
    with pytest.raises(LaunchError, match="k: CUDA_ERROR_INVALID_VALUE"):
        CudaModule(given, kernel_source()).launch(launch(shared_bytes=200_000))


def test_cuda_device_reports_faults_and_lack_of_memory(cupy: FakeCupy) -> None:
    device = CudaDevice()
    array = device.to_device(np.zeros(2))
    cupy.fail = RuntimeApiError("cudaErrorIllegalAddress: an illegal memory access was encountered")
    with pytest.raises(DeviceFault, match="the CUDA device reports: cudaErrorIllegalAddress"):
        device.synchronize()
    with pytest.raises(DeviceFault, match="the CUDA device reports: cudaErrorIllegalAddress"):
        device.to_host(array)
    cupy.fail, cupy.full = None, True
    with pytest.raises(EnvironmentRefused, match="the GPU has too little memory: Out of memory"):
        device.zeros((2,), np.dtype(np.int8))
    with pytest.raises(EnvironmentRefused, match="the GPU has too little memory: Out of memory"):
        device.to_device(np.zeros(2))


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_cuda_device_uses_names_that_cupy_has() -> None:
    """The stub must not promise more than CuPy keeps."""
    import cupy

    assert issubclass(cupy.cuda.driver.CUDADriverError, RuntimeError)
    assert issubclass(cupy.cuda.runtime.CUDARuntimeError, RuntimeError)
    assert not issubclass(cupy.cuda.compiler.CompileException, RuntimeError)
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    assert hasattr(cupy.RawKernel, "max_dynamic_shared_size_bytes")
    assert {"compile", "get_function"} <= set(dir(cupy.RawModule))
    assert hasattr(cupy.cuda.MemoryPointer, "memset")
    module = cupy.RawModule(code="", options=("--std=c++17",), backend="nvrtc")
    assert isinstance(module, cupy.RawModule)
    assert issubclass(np.int64, np.generic)


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
def test_cuda_device_decodes_right(dtype: str, interleaved: bool) -> None:
    problem = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=80, page_size=16, dtype=dtype)
    case = Case(problem=problem, batch=Batch(kv_lens=(0, 1, 700)), poison="nan", interleaved=interleaved)
    tensors = build_tensors(case)
    for num_splits in (1, 3):
        backend = RawKernelBackend(CudaDevice(), num_splits=num_splits)
        result = attend(backend, tensors)
        verdict = judge(tensors, result.out, result.lse, backend.profile)
        assert verdict.passed, verdict.text


@needs_gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
def test_cuda_device_decodes_right_on_tensor_cores(dtype: str, head_dim: int) -> None:
    problem = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=head_dim, page_size=16, dtype=dtype)
    batch = Batch(kv_lens=(0, 1, 5000, 77), q_lens=(1, 3, 1, 8))
    tensors = build_tensors(Case(problem=problem, batch=batch, poison="nan"))
    for split_tokens in (0, 256):
        backend = RawKernelMmaBackend(CudaDevice(), split_tokens=split_tokens)
        plan = backend.plan(tensors)
        for _ in range(2):
            backend.run(plan)
            result = backend.fetch(plan)
            verdict = judge(tensors, result.out, result.lse, backend.profile)
            assert verdict.passed, verdict.text


@needs_gpu
def test_cuda_device_memory() -> None:
    device = CudaDevice()
    fresh = device.empty((3, 5), np.dtype(np.float16))
    assert device.to_host(fresh).tobytes() == b"\xff" * 30
    assert device.empty((0,), np.dtype(np.int32)).shape == (0,)
    strided = np.arange(12).reshape(3, 4)[:, ::2]
    np.testing.assert_array_equal(device.to_host(device.to_device(strided)), strided)


@needs_gpu
def test_cuda_device_refuses_unknown_kernels() -> None:
    from pabench.kernels.instance import kernel_source as instance

    device = CudaDevice()
    module = device.load(instance(device, "page_alloc_scan.cu", PAB_THREADS=64))
    with pytest.raises(LaunchError, match="CUDA_ERROR_NOT_FOUND"):
        module.launch(launch())
