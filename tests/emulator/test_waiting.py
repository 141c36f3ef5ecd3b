# SPDX-License-Identifier: Apache-2.0
"""Blocks that wait for one another: any number of them, on any number of cores."""

from __future__ import annotations

import numpy as np
import pytest

from pabench.device.emulated import EmulatedDevice
from pabench.errors import DeviceFault
from tests.support.probe import probe


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("how", [0, 1])
def test_emulated_waiting_for_the_block_before(workers: int, how: int) -> None:
    blocks = 300
    for seed in range(3):
        flags, sums = np.zeros(blocks, np.uint32), np.zeros(blocks, np.uint32)
        device = EmulatedDevice(workers=workers, poll_seconds=60)
        probe(
            *("races", "look_back", flags, sums, np.uint32(how)),
            grid=(blocks, 1, 1),
            seed=seed,
            device=device,
        )
        assert sums.tolist() == list(range(1, blocks + 1))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_emulated_waiting_for_all_blocks(workers: int) -> None:
    blocks, rounds = 100, 3
    out = np.zeros((blocks, 64), np.uint32)
    counter, cells = np.zeros(2 * rounds, np.uint32), np.zeros(blocks, np.uint32)
    device = EmulatedDevice(workers=workers, poll_seconds=60)
    options = np.uint32(rounds), np.uint32(0)
    probe(
        *("races", "grid_barrier", counter, cells, out, *options),
        grid=(blocks, 1, 1),
        block=(64, 1, 1),
        device=device,
    )
    assert (out == ((np.arange(blocks) + 1) % blocks + rounds - 1)[:, None]).all()
    assert counter.tolist() == [blocks] * (2 * rounds)


@pytest.mark.parametrize("workers", [1, 2])
def test_emulated_waiting_for_a_lock(workers: int) -> None:
    for seed in range(3):
        lock, count = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
        device = EmulatedDevice(workers=workers, poll_seconds=60)
        probe("meetings", "locked", lock, count, grid=(9, 1, 1), block=(96, 1, 1), seed=seed, device=device)
        assert (lock[0], count[0]) == (0, 9 * 96)


@pytest.mark.parametrize("workers", [1, 2])
def test_emulated_waiting_in_vain_is_told(workers: int) -> None:
    device = EmulatedDevice(workers=workers, poll_seconds=1)
    with pytest.raises(DeviceFault, match=r"polled memory for more than 1 s .* \[block \([01], 0, 0\)"):
        probe(
            *("meetings", "each_for_the_other", np.zeros(2, np.uint32), np.uint32(0)),
            grid=(2, 1, 1),
            device=device,
        )
