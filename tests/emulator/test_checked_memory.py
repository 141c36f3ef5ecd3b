# SPDX-License-Identifier: Apache-2.0
"""memcheck and initcheck of the checked device: what kernels touch and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.device.base import KernelSource, Launch
from pabench.device.checked import CheckedDevice, KernelFindings
from pabench.errors import InvalidCase
from pabench.resources import resource_dir

FILE = Path(__file__).resolve().parents[1] / "support" / "cuda" / "faults.cu"
WORD = np.dtype(np.uint32)


def run(device: CheckedDevice, entry: str, *args: Any, threads: int = 64, blocks: int = 1) -> None:
    source = KernelSource(path=FILE, include_dir=resource_dir("kernels_cuda"))
    launch = Launch(
        entry=entry, grid=(blocks, 1, 1), block=(threads, 1, 1), args=args, shared_bytes=4 * threads
    )
    device.load(source).launch(launch)


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(FILE.read_text().splitlines(), 1) if text in line)


def test_checked_memory_lets_a_right_kernel_pass() -> None:
    device = CheckedDevice()
    given, out = np.arange(100, dtype=WORD), device.empty((100,), WORD)
    run(device, "copy_words", given, out, np.int32(100), np.int32(0), blocks=2)
    np.testing.assert_array_equal(out, given)


@pytest.mark.parametrize("shift", [1, -1])
def test_checked_memory_names_an_access_past_either_end(shift: int) -> None:
    device = CheckedDevice()
    given, out = device.zeros((100,), WORD), device.empty((100,), WORD)
    with pytest.raises(KernelFindings) as caught:
        run(device, "copy_words", given, out, np.int32(100), np.int32(shift), blocks=2)
    finding = caught.value.findings[0]
    assert (finding.check, finding.kernel, finding.buffer) == ("memory", "copy_words", "from")
    assert finding.offset == (400 if shift > 0 else -4)
    assert (finding.at.place.file, finding.at.place.line) == ("faults.cu", line_of("to[i] = from"))
    thread = 99 if shift > 0 else 0
    assert finding.at.block[0] * 64 + finding.at.thread[0] == thread


def test_checked_memory_names_freed_memory() -> None:
    device = CheckedDevice()
    given, out = device.zeros((64,), WORD), device.empty((64,), WORD)
    device.free(given)
    with pytest.raises(KernelFindings, match="read of freed memory in from"):
        run(device, "copy_words", given, out, np.int32(64), np.int32(0))


def test_checked_memory_takes_memory_that_the_host_used_before() -> None:
    device = CheckedDevice()
    for _ in range(20):  # small arrays get the address of the one before
        for words in (64, 100):
            run(
                device,
                "copy_words",
                np.zeros(words, WORD),
                np.zeros(words, WORD),
                np.int32(words),
                np.int32(0),
                blocks=2,
            )


def test_checked_memory_names_what_nobody_wrote() -> None:
    device = CheckedDevice()
    given, out = device.empty((64,), WORD), device.empty((64,), WORD)
    with pytest.raises(KernelFindings, match="init: read of 4 bytes of which 4 were never written in from"):
        run(device, "copy_words", given, out, np.int32(64), np.int32(0))


@pytest.mark.parametrize("written", [64, 63])
def test_checked_memory_follows_shared_memory(written: int) -> None:
    device = CheckedDevice(collect=True)
    given, out = device.zeros((64,), WORD), device.empty((64,), WORD)
    run(device, "reverse_in_shared", given, out, np.int32(written))
    assert [(f.check, f.buffer, f.offset) for f in device.findings] == (
        [] if written == 64 else [("init", "shared memory", 252)]
    )


def test_checked_memory_remembers_what_earlier_launches_wrote() -> None:
    device = CheckedDevice()
    first, second = device.empty((64,), WORD), device.empty((64,), WORD)
    run(device, "copy_words", np.arange(64, dtype=WORD), first, np.int32(64), np.int32(0))
    run(device, "copy_words", first, second, np.int32(64), np.int32(0))
    np.testing.assert_array_equal(second, np.arange(64))


def test_checked_memory_refuses_an_unknown_check() -> None:
    with pytest.raises(InvalidCase, match="'speed'"):
        CheckedDevice(checks=["speed"])
