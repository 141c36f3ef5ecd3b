# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.device.arguments import check_limits
from pabench.device.base import KernelSource, Launch
from pabench.device.emulated import MAX_BLOCKS, EmulatedDevice
from pabench.device.headers import EMULATOR
from pabench.errors import DeviceFault, InvalidCase, LaunchError
from tests.support.probe import KERNELS, probe

ARRAY = np.zeros(32, np.uint32)
WORD = np.uint32(1)


class Foreign:
    """An array of some other library."""

    shape = (32,)
    dtype = np.dtype(np.uint32)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((WORD,), "takes 2 arguments, got 1"),
        ((WORD, ARRAY, WORD), "takes 2 arguments, got 3"),
        ((ARRAY, ARRAY), "argument 0 must be a u32 scalar, got array uint32[32]"),
        ((WORD, WORD), "argument 1 must be an array, got uint32 1"),
        ((np.uint64(1), ARRAY), "argument 0 must be a u32 scalar, got uint64 1"),
        ((np.int32(1), ARRAY), "argument 0 must be a u32 scalar, got int32 1"),
        ((np.float32(1), ARRAY), "argument 0 must be a u32 scalar, got float32 1.0"),
        ((np.float64(1), ARRAY), "argument 0 must be a u32 scalar, got float64 1.0"),
        ((1, ARRAY), "argument 0 is the Python number 1: give numbers as numpy scalars such as np.int32(3)"),
        ((True, ARRAY), "argument 0 is the Python number True"),
        ((2.5, ARRAY), "argument 0 is the Python number 2.5"),
        ((1j, ARRAY), "argument 0 is the Python number 1j"),
        ((None, ARRAY), "argument 0 must be a u32 scalar, got NoneType"),
        ((WORD, [1, 2]), "argument 1 must be an array, got list"),
        ((WORD, Foreign()), "argument 1 is not an array of the emulated device: tests.emulator.test_device"),
    ],
)
def test_emulated_device_refuses_arguments(args: tuple[Any, ...], text: str) -> None:
    with pytest.raises(LaunchError) as caught:
        probe("collectives", "leavers", *args)
    assert str(caught.value).startswith(f"leavers: {text}")
    assert "\n" not in str(caught.value)
    assert not ARRAY.any()


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes", "text"),
    [
        ((0, 1, 1), (1, 1, 1), 0, "grid.x = 0: must be in 1..2147483647"),
        ((2**31, 1, 1), (1, 1, 1), 0, "grid.x = 2147483648: must be in 1..2147483647"),
        ((1, 65536, 1), (1, 1, 1), 0, "grid.y = 65536: must be in 1..65535"),
        ((1, 1, -3), (1, 1, 1), 0, "grid.z = -3: must be in 1..65535"),
        ((1, 1, 1), (1025, 1, 1), 0, "block.x = 1025: must be in 1..1024"),
        ((1, 1, 1), (1, 1, 65), 0, "block.z = 65: must be in 1..64"),
        ((1, 1, 1), (32, 33, 1), 0, "block of 1056 threads: must be at most 1024"),
        ((1, 1, 1), (1, 1, 1), -1, "shared_bytes = -1: must be in 0..232448"),
        ((1, 1, 1), (1, 1, 1), 232449, "shared_bytes = 232449: must be in 0..232448"),
    ],
)
def test_emulated_device_refuses_launches_beyond_the_limits(
    grid: tuple[int, int, int], block: tuple[int, int, int], shared_bytes: int, text: str
) -> None:
    with pytest.raises(LaunchError) as caught:
        probe("collectives", "leavers", WORD, ARRAY, grid=grid, block=block, shared_bytes=shared_bytes)
    assert str(caught.value) == f"leavers: {text}"


def test_emulated_device_takes_the_largest_launches() -> None:
    check_limits(
        Launch(entry="k", grid=(2**31 - 1, 65535, 65535), block=(16, 1, 64), args=(), shared_bytes=232448)
    )
    with pytest.raises(LaunchError, match=f"grid of {MAX_BLOCKS + 1} blocks: must be at most {MAX_BLOCKS}"):
        probe("collectives", "leavers", WORD, ARRAY, grid=(MAX_BLOCKS + 1, 1, 1))


def test_emulated_device_knows_its_kernels_names() -> None:
    with pytest.raises(LaunchError, match=r"^collectives\.cu has no kernel 'leaver'$"):
        probe("collectives", "leaver", WORD, ARRAY)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8, np.uint64, np.bool_])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (2, 3, 4)])
def test_emulated_device_gives_fresh_memory_of_ones(shape: tuple[int, ...], dtype: type) -> None:
    array = EmulatedDevice().empty(shape, np.dtype(dtype))
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.tobytes() == b"\xff" * array.nbytes
    assert array.flags.writeable


def test_emulated_device_copies_to_and_fro() -> None:
    device = EmulatedDevice()
    strided = np.arange(12).reshape(3, 4)[:, ::2]
    placed = device.to_device(strided)
    assert placed.flags.c_contiguous
    np.testing.assert_array_equal(placed, strided)
    back = device.to_host(placed)
    back[:] = 0
    np.testing.assert_array_equal(placed, strided)
    assert not device.zeros((2, 2), np.dtype(np.int16)).any()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 0}, "workers = 0: must be at least 1"),
        ({"workers": -2}, "workers = -2: must be at least 1"),
        ({"workers": 10**6}, "workers = 1000000: must be at most 1024"),
        ({"seed": -1}, "seed = -1: must be at least 0"),
        ({"seed": 2**64}, "seed = 18446744073709551616: must be at most 18446744073709551615"),
        ({"seed": 1.5}, "seed = 1.5: must be a whole number"),
        ({"poll_seconds": 0}, "poll_seconds = 0: must be at least 1"),
    ],
)
def test_emulated_device_refuses_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidCase) as caught:
        EmulatedDevice(**options)
    assert str(caught.value) == text


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_emulated_device_results_do_not_depend_on_schedule(workers: int, seed: int) -> None:
    device = EmulatedDevice(workers=workers)
    out = np.zeros((6, 2, 32), np.uint32)
    data = np.arange(192, dtype=np.uint32)
    options: dict[str, Any] = {"block": (96, 1, 1), "shared_bytes": 128, "seed": seed, "device": device}
    probe("blocks", "pipeline", data, out, np.uint32(6), grid=(4, 1, 1), **options)
    assert (out[:, 1] == data.reshape(6, 32)[:, ::-1] + 2).all()


@pytest.mark.slow
def test_emulated_device_with_portable_fibers() -> None:
    portable = EmulatedDevice(flags=["-DPAB_EMU_UCONTEXT"], workers=2)
    out = np.zeros((6, 2, 32), np.uint32)
    data = np.arange(192, dtype=np.uint32)
    probe(
        *("blocks", "pipeline", data, out, np.uint32(6)),
        grid=(3, 1, 1),
        block=(96, 1, 1),
        shared_bytes=128,
        device=portable,
    )
    assert (out[:, 0] == data.reshape(6, 32)[:, ::-1] + 1).all()
    sizes = (np.uint32(1000), np.uint32(2))
    numbers, back = np.arange(1000, dtype=np.uint32), np.zeros(1000, np.uint32)
    for _ in range(2):  # a block of many threads, then again with the same stacks
        probe(
            *("blocks", "reverse", numbers, back, *sizes),
            block=(1000, 1, 1),
            shared_bytes=4000,
            device=portable,
        )
        np.testing.assert_array_equal(back, numbers)
    with pytest.raises(DeviceFault, match="barrier 2: 5 threads is not a multiple"):
        probe("wrong", "barrier_of", np.uint32(2), np.uint32(5), grid=(4, 1, 1), device=portable)
    with pytest.raises(DeviceFault, match="32 of 64 threads are at barrier 2"):
        probe("wrong", "barrier_of", np.uint32(2), np.uint32(64), grid=(4, 1, 1), device=portable)


@pytest.mark.slow
def test_emulated_device_runs_kernels_of_two_emulators_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "emulator"
    shutil.copytree(EMULATOR, copy)
    lane = copy / "lane.h"
    lane.write_text(lane.read_text().replace("kPoison = 0x7FFF7FFF7FFF7FFF", "kPoison = 0xEEEEEEEEEEEEEEEE"))
    monkeypatch.setenv("PABENCH_EMULATOR", str(copy))
    other = EmulatedDevice()
    monkeypatch.delenv("PABENCH_EMULATOR")
    module = other.load(KernelSource(path=KERNELS / "blocks.cu", include_dir=other.kernels))
    for _ in range(2):
        found = np.zeros(16, np.uint8)
        probe("blocks", "fresh_shared", found, np.uint32(16), shared_bytes=16)
        assert (found.view(np.uint16) == 0x7FFF).all()
        launch = Launch(
            entry="fresh_shared",
            grid=(1, 1, 1),
            block=(32, 1, 1),
            args=(found, np.uint32(16)),
            shared_bytes=16,
        )
        module.launch(launch)
        assert (found == 0xEE).all()
