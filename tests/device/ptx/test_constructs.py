# SPDX-License-Identifier: Apache-2.0
"""Ordinary CUDA, with no header of ours: a kernel for each construct, compared with numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pabench.device.base import KernelSource, Launch, Module
from pabench.device.registry import open_device
from pabench.problem.dtypes import Array
from pabench.resources import resource_dir
from tests.device.ptx.test_device import needs_nvrtc

SOURCE = Path(__file__).resolve().parents[2] / "support" / "cuda" / "constructs.cu"
T = np.arange(64)
LANE = T % 32
F = T.astype(np.float32)
START = (T * 3 + 1).astype(np.int32)


def bf16(x: Array) -> Array:
    bits = x.astype(np.float32).view(np.uint32)
    kept: Array = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return np.frombuffer(kept.tobytes(), np.float32)


def e4m3(x: Array) -> Array:
    scale = np.exp2(np.maximum(np.floor(np.log2(np.maximum(x, 1e-9))), -6) - 3)
    return np.asarray(np.minimum(np.rint(x / scale) * scale, 448))


def masks(values: Array) -> Array:
    """For each thread the lanes of its warp with its value."""
    warps = values.reshape(2, 32)
    return np.array([sum(1 << j for j in range(32) if w[j] == v) for w in warps for v in w])


def apart(x: Array) -> Array:
    for i in range(5):
        x = x * np.float32(0.5) + np.float32(i)
    return x


def switched(start: Array) -> Array:
    kinds: list[Callable[[int], int]] = [
        lambda w: 11,
        lambda w: 5 * w,
        lambda w: ~w,
        lambda w: w - 100,
        lambda w: -7,
        lambda w: w ^ 0x55,
    ]
    kinds += [lambda w: 1 << (w % 8), lambda w: w * w, lambda w: 99]
    return np.array([kinds[t % 9](int(w)) for t, w in zip(T, start, strict=True)])


def brev(t: int) -> int:
    return int(f"{t:032b}"[::-1], 2)


def bits() -> Array:
    out = []
    for t in range(64):
        permuted = int.from_bytes(bytes([t & 255, 0xDD, t >> 8 & 255, 0xDD]), "little")
        signed = permuted - 2**32 if permuted >> 31 else permuted
        number = int(np.float32(t).view(np.int32))
        ffs = (t & -t).bit_length()
        out.append(
            (t * 77).bit_count() + 32 - (t + 1).bit_length() + ffs + (brev(t) >> 26) + number % 1000
            + int(np.fmod(signed, 1000))
        )  # fmt: skip
    return np.array(out)


def mathematics() -> Array:
    x = 0.25 + T * 0.125
    return np.asarray(2 * np.exp(-x) + np.log(x) + np.sqrt(x) + x + x**1.5 + 1 / np.sqrt(x))


HALVES = np.array([64, 128], np.float16).view(np.float32)
WANT: dict[str, Callable[[], Array]] = {
    "static_shared": lambda: 63 - F,
    "dynamic_shared": lambda: (F + 1) % 64 * 2,
    "shared_matrix": lambda: F.reshape(8, 8).T.ravel(),
    "shuffle_xor": lambda: F.reshape(2, 32).sum(axis=1).repeat(32),
    "shuffle_down_width": lambda: np.where(T % 8 + 3 < 8, T + 3, T),
    "shuffle_up": lambda: np.where(LANE >= 5, T - 5, T),
    "shuffle_double": lambda: (T // 32 * 32 + 9) * 1.25,
    "ballot": lambda: (
        masks((T % 3 == 0).astype(int)) * 0
        + np.repeat([sum(1 << i for i in range(32) if (i + w) % 3 == 0) for w in (0, 32)], 32)
    ),
    "any_all": lambda: np.where(T < 32, 2, 1),
    "match": lambda: masks(T % 4),
    "reduce_max": lambda: np.repeat([max(t * 7 % 31 for t in range(w, w + 32)) for w in (0, 32)], 32),
    "barrier_count": lambda: np.full(64, 13),
    "half_arithmetic": lambda: F,
    "half2_fma": lambda: (
        (F * F + 1).astype(np.float16).astype(np.float32)
        + ((F + 0.5) ** 2 + 1).astype(np.float16).astype(np.float32)
    ),
    "half_operators": lambda: 1.5 * F - 2,
    "bfloat16": lambda: bf16(F + np.float32(0.3)),
    "fp8": lambda: e4m3((F * np.float32(0.7)).astype(np.float64)),
    "float4_load": lambda: F.reshape(16, 4).sum(axis=1).repeat(4),
    "int2_make": lambda: T * 5,
    "atomic_add_float": lambda: np.concatenate([[16, 17], F[2:]]),
    "atomic_add_shared": lambda: np.full(64, 2016),
    "atomic_max_cas": lambda: np.concatenate([[1, 4 + 128], START[2:]]),
    "atomic_half2": lambda: np.concatenate([HALVES, F[1:]]),
    "groups_sync": lambda: 63 - F,
    "groups_reduce": lambda: T.reshape(4, 16).sum(axis=1).repeat(16),
    "groups_shuffle": lambda: T // 32 * 32 + 31 + T // 32,
    "constants": lambda: T % 4 + 1.5,
    "device_variable": lambda: 7 * T,
    "local_array": lambda: START % 8 * F,
    "struct_template": lambda: 1 + 2 * F,
    "function_call": lambda: apart(F),
    "recursion": lambda: np.array([0, 1, 1, 2, 3, 5, 8, 13, 21, 34])[T % 10],
    "switch_table": lambda: switched(START),
    "mathematics": mathematics,
    "limits": lambda: np.array([np.inf, np.nan, np.finfo(np.float32).max, -np.inf])[T % 4],
    "long_division": lambda: np.array(
        [1234567890123 * (t + 1) // 1000003 % 65536 + (4000000000 * t >> 32) for t in range(64)]
    ),
    "bits": bits,
    "inline_assembly": lambda: LANE + np.where(LANE > 15, 100, 0),
    "early_exit": lambda: np.where(T % 2, START, -1),
    "grid_stride": lambda: T * 2,
    "grid_sync": lambda: 2 * (63 - T),
}
GRIDS = {"grid_stride": 2, "grid_sync": 2}


@pytest.fixture(scope="module")
def constructs() -> Module:
    source = KernelSource(path=SOURCE, include_dir=resource_dir("kernels_cuda"))
    return open_device("ptx:sm_80").load(source)


def test_every_construct_is_asked_for() -> None:
    text = SOURCE.read_text(encoding="utf-8")
    named = {line.split("(")[1].split(")")[0] for line in text.splitlines() if line.startswith("KERNEL(")}
    assert named == set(WANT)
    assert len(named) >= 36


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WANT))
def test_construct_computes_what_cuda_says(constructs: Module, name: str) -> None:
    out, whole = F.copy(), START.copy()
    if name == "atomic_half2":
        out[0] = 0
    grid = (GRIDS.get(name, 1), 1, 1)
    constructs.launch(Launch(entry=name, grid=grid, block=(64, 1, 1), args=(out, whole), shared_bytes=1024))
    want = WANT[name]()
    if name == "limits":
        np.testing.assert_array_equal(whole, 2**31 - 1 - T)
    if np.array_equal(whole, START) or name == "limits":
        np.testing.assert_allclose(out, want, rtol=1e-6 if name == "mathematics" else 0)
    else:
        np.testing.assert_array_equal(whole.view(np.uint32), want.astype(np.int64) & 0xFFFFFFFF)
        assert out.tobytes() == F.tobytes()
