# SPDX-License-Identifier: Apache-2.0
"""Launches that overlap, as the driver gets them: seen through a stand-in for ``cuLaunchKernelEx``."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pabench.device import cuda_overlap
from pabench.device.base import KernelSource, Launch
from pabench.device.cuda import CudaModule
from pabench.device.cuda_overlap import Attribute, Config, launch_overlapping
from pabench.errors import EnvironmentRefused, LaunchError
from pabench.resources import resource_dir

MAP = np.frombuffer(bytes(range(128)), np.dtype((np.void, 128)))[0]


class Array:
    """A CuPy array: what the launch asks of it."""

    def __init__(self, address: int) -> None:
        self.data = SimpleNamespace(ptr=address)


class Driver:
    """Keeps what it is called with."""

    def __init__(self, sizes: tuple[int, ...], code: int = 0) -> None:
        self.sizes, self.code, self.calls = sizes, code, []  # type: ignore[var-annotated]

    def __call__(self, config: Any, function: int, pointers: Any, extra: Any) -> int:
        given = ctypes.cast(config, ctypes.POINTER(Config)).contents
        attributes = given.attributes[0]
        addresses = list(pointers)
        self.calls.append(
            {
                "grid": tuple(given.grid),
                "block": tuple(given.block),
                "shared": given.shared_bytes,
                "stream": given.stream,
                "attributes": [(attributes.id, attributes.value[0])][: given.num_attributes],
                "function": function,
                "arguments": [ctypes.string_at(a, n) for a, n in zip(addresses, self.sizes, strict=True)],
                "addresses": addresses,
                "extra": extra,
            }
        )
        return self.code


def launch(*args: Any, **other: Any) -> Launch:
    sizes: dict[str, Any] = {"grid": (3, 2, 1), "block": (64, 1, 1), "shared_bytes": 100_000, **other}
    return Launch(entry="k", args=args, **sizes)


def test_driver_gets_the_launch_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver((8, 4, 8, 128))
    monkeypatch.setattr(cuda_overlap, "driver", lambda: driver)
    launch_overlapping(77, launch(Array(2**40 + 16), np.int32(-5), np.int64(2**40), MAP), stream=99)
    (call,) = driver.calls
    assert call["arguments"] == [
        (2**40 + 16).to_bytes(8, "little"),
        np.int32(-5).tobytes(),
        np.int64(2**40).tobytes(),
        bytes(range(128)),
    ]
    assert all(address % 64 == 0 for address in call["addresses"])  # as a tensor map must lie
    assert (call["grid"], call["block"], call["shared"]) == ((3, 2, 1), (64, 1, 1), 100_000)
    assert (call["function"], call["stream"], call["extra"]) == (77, 99, None)
    assert call["attributes"] == [(6, 1)]  # programmatic stream serialization, allowed


def test_sizes_are_those_of_the_driver() -> None:
    """``sizeof`` of ``CUlaunchAttribute`` and ``CUlaunchConfig``, as ``cuda.h`` asserts and lays them out."""
    assert ctypes.sizeof(Attribute) == 72
    assert (Config.stream.offset, Config.attributes.offset, Config.num_attributes.offset) == (32, 40, 48)
    assert ctypes.sizeof(Config) == 56


def test_refusals_of_the_driver_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_overlap, "driver", lambda: Driver((4,), code=801))
    with pytest.raises(LaunchError, match=r"^k: the driver refuses a launch that overlaps, CUresult 801$"):
        launch_overlapping(77, launch(np.int32(1)), stream=0)


def test_an_old_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_overlap.driver.cache_clear()
    monkeypatch.setattr(cuda_overlap, "LIBRARY", "libm.so.6")  # a library without the function
    with pytest.raises(EnvironmentRefused, match=r"need CUDA 12 or later: .*cuLaunchKernelEx"):
        cuda_overlap.driver()
    monkeypatch.setattr(cuda_overlap, "LIBRARY", "libno-such-thing.so")
    with pytest.raises(EnvironmentRefused, match=r"need CUDA 12 or later: .*libno-such-thing"):
        cuda_overlap.driver()


@pytest.mark.parametrize(
    ("major", "overlaps", "other"), [(9, True, True), (9, False, False), (8, True, False)]
)
def test_only_launches_that_may_overlap_do(
    monkeypatch: pytest.MonkeyPatch, major: int, overlaps: bool, other: bool
) -> None:
    usual, made = [], []

    class Kernel:
        kernel = SimpleNamespace(ptr=77)
        max_dynamic_shared_size_bytes = 0

        def __call__(self, *args: Any, **named: Any) -> None:
            usual.append(args)

    def overlapping(function: int, launch: Launch, stream: int) -> None:
        made.append((function, launch.entry, stream, kernel.max_dynamic_shared_size_bytes))

    kernel = Kernel()
    error = type("E", (Exception,), {})
    fake = SimpleNamespace(
        ndarray=Array,
        cuda=SimpleNamespace(
            driver=SimpleNamespace(CUDADriverError=error),
            runtime=SimpleNamespace(
                CUDARuntimeError=error, getDeviceProperties=lambda number: {"major": major, "minor": 0}
            ),
            Device=lambda: SimpleNamespace(id=0),
            get_current_stream=lambda: SimpleNamespace(ptr=5),
        ),
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(cuda_overlap, "launch_overlapping", overlapping)
    folder = resource_dir("kernels_cuda")
    source = KernelSource(path=folder / "x.cu", include_dir=folder)
    module = CudaModule(SimpleNamespace(get_function=lambda name: kernel), source)
    module.launch(launch(Array(16), overlaps=overlaps))
    assert len(usual) == (not other)
    assert made == ([(77, "k", 5, 100_000)] if other else [])


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_names_are_those_that_cupy_has() -> None:
    import cupy
    from cupy.cuda.function import Function

    assert hasattr(cupy.RawKernel, "kernel")
    assert hasattr(Function, "ptr")
    assert callable(cupy.cuda.get_current_stream)
