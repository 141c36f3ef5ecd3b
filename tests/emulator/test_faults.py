# SPDX-License-Identifier: Apache-2.0
"""Kernels that are wrong: seen by a wrong result under some seed, or as a fault that says who waits where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pabench.device.emulated import EmulatedDevice
from pabench.errors import DeviceFault
from tests.support.probe import probe

FAULTS: dict[str, tuple[tuple[Any, ...], int, str]] = {
    "barriers_apart": (
        (),
        96,
        "deadlock in block (0, 0, 0); 32 of 96 threads are at barrier 1; 64 of 96 threads are at barrier 2; "
        "warp 0: lanes 0xffffffff at barrier 1; warp 1: lanes 0xffffffff at barrier 2; "
        "warp 2: lanes 0xffffffff at barrier 2",
    ),
    "lane_at_barrier": (
        (),
        32,
        "deadlock in block (0, 0, 0); 1 of 32 threads are at barrier 0; warp 0: lanes 0xffffffdf at "
        "reduce_add with mask 0xffffffff, where lanes 0x00000020 never arrive, lanes 0x00000020 at barrier 0",
    ),
    "masks_differ": ((), 5, "with mask 0x0000000f, another lane to ballot with 0x0000001f"),
    "operations_differ": ((), 32, "came to any with mask 0xffffffff, another lane to ballot with 0xffffffff"),
    "not_in_own_mask": ((), 32, "lane 0 is not in its own mask 0xfffffffe"),
    "counts_differ": ((), 96, "barrier 1: threads expect"),
}


@pytest.mark.parametrize("entry", FAULTS)
def test_emulated_faults_are_reported(entry: str) -> None:
    args, threads, text = FAULTS[entry]
    for seed in range(3):
        with pytest.raises(DeviceFault) as caught:
            probe("wrong", entry, *args, block=(threads, 1, 1), seed=seed)
        message = str(caught.value)
        if entry == "masks_differ" and text not in message:  # the other way round, as the order has it
            text = "with mask 0x0000001f, another lane to ballot with 0x0000000f"
        if entry == "operations_differ" and text not in message:
            text = "came to ballot with mask 0xffffffff, another lane to any with 0xffffffff"
        assert text in message
        assert message.startswith(f"{entry}: ")
        assert "\n" not in message


def test_emulated_faults_of_overlapping_masks() -> None:
    for seed in range(6):
        with pytest.raises(DeviceFault, match=r"warp collective: lane|at ballot with mask 0x00000007, where"):
            probe("wrong", "masks_split", block=(4, 1, 1), seed=seed)


@pytest.mark.parametrize(
    ("number", "threads", "text"),
    [
        (16, 32, "barrier 16: there are 16 barriers"),
        (3, 33, "barrier 3: 33 threads is not a multiple of the warp size"),
        (3, 0, "barrier 3: 0 threads, must be a multiple of the warp size"),
        (3, 64, "32 of 64 threads are at barrier 3; warp 0: lanes 0xffffffff at barrier 3"),
    ],
)
def test_emulated_faults_of_named_barriers(number: int, threads: int, text: str) -> None:
    with pytest.raises(DeviceFault) as caught:
        probe("wrong", "barrier_of", np.uint32(number), np.uint32(threads))
    assert text in str(caught.value)


@pytest.mark.parametrize(("target", "source"), [(8, 0), (0, 4), (1, 1)])
def test_emulated_faults_of_misaligned_copies(target: int, source: int) -> None:
    data = np.zeros(64, np.float32)
    with pytest.raises(DeviceFault, match=r"cp\.async: address not aligned to 16 bytes .*thread \("):
        probe("wrong", "copy_at", data, np.uint32(target), np.uint32(source), shared_bytes=64)
    probe("wrong", "copy_at", data, np.uint32(16), np.uint32(32), shared_bytes=64)


def test_emulated_faults_of_copies_without_end() -> None:
    with pytest.raises(DeviceFault, match="more than 256 copies of one thread in flight"):
        probe("wrong", "too_many_copies", np.zeros(4, np.float32), shared_bytes=16)


def test_emulated_faults_name_the_block_and_few_of_many_warps() -> None:
    with pytest.raises(DeviceFault) as caught:
        probe("wrong", "lane_at_barrier", grid=(2, 3, 4), block=(32, 1, 1), device=EmulatedDevice(workers=1))
    assert "deadlock in block (" in str(caught.value)
    with pytest.raises(DeviceFault, match=r"; 28 more warps$"):
        probe("wrong", "barrier_of", np.uint32(1), np.uint32(64 * 32), block=(1024, 1, 1))


def test_emulated_faults_leave_the_device_usable() -> None:
    device = EmulatedDevice(workers=2)
    for seed in range(5):
        with pytest.raises(DeviceFault):
            probe("wrong", "lane_at_barrier", grid=(8, 1, 1), seed=seed, device=device)
        out = np.zeros(96, np.uint32)
        probe("wrong", "right", out, grid=(4, 1, 1), block=(96, 1, 1), seed=seed, device=device)
        assert (out == 32).all()


def test_emulated_faults_of_polls_without_end() -> None:
    device = EmulatedDevice(poll_seconds=1)
    with pytest.raises(DeviceFault, match="polled memory for more than 1 s without end"):
        probe("wrong", "waits_forever", np.zeros(1, np.uint32), block=(64, 1, 1), device=device)


def test_emulated_faults_end_blocks_that_wait_for_the_fallen() -> None:
    device = EmulatedDevice(workers=3, poll_seconds=600)
    with pytest.raises(DeviceFault, match="33 threads is not a multiple"):
        probe("wrong", "waits_for_the_fallen", np.zeros(1, np.uint32), grid=(3, 1, 1), device=device)


@pytest.mark.parametrize("entry", ["no_barrier", "one_barrier", "no_warp_sync"])
def test_emulated_faults_of_missing_barriers_show_under_some_seed(entry: str) -> None:
    results = set()
    for seed in range(20):
        out = np.zeros(96, np.uint32)
        probe("wrong", entry, out, block=(96, 1, 1), shared_bytes=4 * 96, seed=seed)
        results.add(out.tobytes())
    assert len(results) > 1
