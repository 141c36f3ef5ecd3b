# SPDX-License-Identifier: Apache-2.0
"""Kernels for one architecture on the CUDA device: compiled for it by name, and loaded as a binary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pabench.device.architecture import architecture_of
from pabench.device.cuda import CudaDevice
from pabench.device.registry import open_device
from tests.device.test_cuda_device import FakeCupy, cupy, kernel_source, launch

__all__ = ["cupy"]


def test_cuda_device_loads_what_one_architecture_has_as_a_binary(
    cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def compiled(source: object, architecture: str) -> object:
        asked.append(architecture)
        return type("Cubin", (), {"image": b"\x7fELF of it"})

    monkeypatch.setattr("pabench.device.cuda.compile_cubin", compiled)
    module = CudaDevice().load(replace(kernel_source(), architecture="sm_90a"))
    assert asked == ["sm_90a"]
    (given,) = cupy.modules
    path = Path(given.pop("path"))
    assert given == {}
    assert path.read_bytes() == b"\x7fELF of it"
    module.launch(launch())
    assert [name for name, *_ in cupy.launched] == ["k"]
    del module
    cupy.modules.clear()
    assert not path.exists()


def test_cuda_device_gives_structures_by_value(cupy: FakeCupy) -> None:
    CudaDevice().load(kernel_source()).launch(launch(np.void(bytes(range(128)))))
    ((_, _, _, (given,), _),) = cupy.launched
    assert isinstance(given, np.ndarray)
    assert given.tobytes() == bytes(range(128))


@pytest.mark.parametrize(
    ("major", "minor", "architecture"),
    [(8, 0, "sm_80"), (8, 9, "sm_89"), (9, 0, "sm_90a"), (10, 0, "sm_100a"), (12, 0, "sm_120a")],
)
def test_cuda_device_has_an_architecture(cupy: FakeCupy, major: int, minor: int, architecture: str) -> None:
    cupy.cuda.runtime.getDeviceProperties = lambda number: {"major": major, "minor": minor, "name": b"GPU"}
    assert architecture_of(CudaDevice()) == architecture


def test_other_devices_have_an_architecture_where_they_run_ptx() -> None:
    assert architecture_of(open_device("ptx:sm_90a")) == "sm_90a"
    assert architecture_of(open_device("ptx:sm_80:lockstep")) == "sm_80"
    assert architecture_of(open_device("emulated")) is None
