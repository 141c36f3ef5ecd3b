# SPDX-License-Identifier: Apache-2.0
"""Tensor maps: of the PTX device, of a driver that notes what it is asked, and none on others."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pabench.device.ptx.tensor_map import encode_tiled
from pabench.device.registry import open_device
from pabench.device.tensor_map import tensor_map
from pabench.errors import EnvironmentRefused, LaunchError, Unsupported

ASKED: dict[str, Any] = {"box": (64, 16), "sizes": (80, 100), "strides": (256,), "swizzle": 128}
CUDA: Any = SimpleNamespace(name="cuda")


def on_gpu() -> Any:
    """Stands for an array of CuPy at address 4096."""
    return SimpleNamespace(data=SimpleNamespace(ptr=4096), dtype=np.dtype(np.uint16))


def test_tensor_map_of_the_ptx_device_is_its_own() -> None:
    array = np.zeros(100 * 128, np.uint16)
    array = array[-array.ctypes.data % 16 // 2 :]
    made = tensor_map(open_device("ptx:sm_90a"), array, **ASKED)
    assert made == encode_tiled(array, **ASKED)
    with pytest.raises(LaunchError, match="swizzle 7"):
        tensor_map(open_device("ptx:sm_90a"), array, **ASKED | {"swizzle": 7})


def test_tensor_map_of_a_gpu_is_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []

    def encode(room: Any, *given: Any) -> int:
        assert room.value % 64 == 0
        ctypes.memmove(room.value, bytes(range(128)), 128)
        said.extend(list(one) if isinstance(one, ctypes.Array) else one.value for one in given)
        return 0

    libraries = {"libcuda.so.1": SimpleNamespace(cuTensorMapEncodeTiled=encode)}
    monkeypatch.setattr(ctypes, "CDLL", libraries.__getitem__)
    made = tensor_map(CUDA, on_gpu(), **ASKED)
    assert made.tobytes() == bytes(range(128))
    # 16-bit whole numbers; not interleaved, 128 bytes swizzled, 128 bytes promoted, zeros outside
    assert said == [1, 2, 4096, [80, 100], [256], [64, 16], [1, 1], 0, 3, 2, 0]


def test_tensor_map_that_the_driver_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(cuTensorMapEncodeTiled=lambda *given: 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    with pytest.raises(LaunchError, match=r"^tensor map: box \[64, 16\] of .*: error 1 of the CUDA driver$"):
        tensor_map(CUDA, on_gpu(), **ASKED)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    with pytest.raises(EnvironmentRefused, match=r"^the CUDA driver makes no tensor maps: "):
        tensor_map(CUDA, on_gpu(), **ASKED)


def test_tensor_map_is_not_on_the_emulated_device() -> None:
    with pytest.raises(Unsupported, match=r"^tensor maps: there are none on device emulated$"):
        tensor_map(open_device("emulated"), np.zeros(4), **ASKED)
