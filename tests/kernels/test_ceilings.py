# SPDX-License-Identifier: Apache-2.0
"""The kernels that measure a GPU's memory: right sums, copies and fills, and nothing left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.device.checked import CheckedDevice
from pabench.device.emulated import EmulatedDevice
from pabench.errors import InvalidCase
from pabench.kernels.ceilings import CeilingKernels, CeilingShape, ceiling_shapes
from pabench.problem.dtypes import Array
from tests.support.probe import DEVICE

SHAPE = CeilingShape(lanes=4, blocks=3)


def words(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 2**32, 4 * count, np.uint32)


def mixed(count: int, seed: int) -> Array:
    """What ``ceiling_fill`` writes."""
    x: Array = (np.arange(4 * count, dtype=np.uint32) + np.uint32(seed + 1)) * np.uint32(0x9E3779B1)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    x ^= x >> np.uint32(13)
    return x


@settings(max_examples=40, deadline=None)
@given(
    lanes=st.integers(0, 9000),
    blocks=st.integers(1, 5),
    width=st.sampled_from([4, 8]),
    seed=st.integers(0, 99),
)
def test_kernels_ceilings_move_every_byte_property(lanes: int, blocks: int, width: int, seed: int) -> None:
    kernels = CeilingKernels(DEVICE, CeilingShape(lanes=width, blocks=blocks))
    # one lane behind the data, so that an array of none has an address and what lies behind it is seen
    data, target = words(lanes + 1, seed), words(lanes + 1, seed + 100)
    behind = target[-4:].copy()
    kernels.read(data[:-4])
    assert kernels.checksum() == int(data[:-4].sum(dtype=np.uint64)) % 2**32
    kernels.copy(data[:-4], target[:-4])
    np.testing.assert_array_equal(target[:-4], data[:-4])
    kernels.fill(target[:-4], seed)
    np.testing.assert_array_equal(target[:-4], mixed(lanes, seed))
    np.testing.assert_array_equal(target[-4:], behind)
    kernels.empty()
    if lanes:
        repeated = words(lanes // 7 + 1, seed)
        kernels.tile(repeated, target[:-4])
        np.testing.assert_array_equal(target[:-4], np.resize(repeated, 4 * lanes))
        np.testing.assert_array_equal(target[-4:], behind)


def test_kernels_ceilings_do_what_they_may_and_move_each_byte_once() -> None:
    device = CheckedDevice(count=True)
    kernels = CeilingKernels(device, SHAPE)
    count = 5000
    data = device.to_device(words(count))
    target = device.empty((4 * count,), np.dtype(np.uint32))
    kernels.fill(target)
    kernels.read(target)
    kernels.copy(data, target)
    read, copy, fill = (device.counters[f"ceiling_{name}"] for name in ("read", "copy", "fill"))
    assert read.loaded_bytes("data") == copy.loaded_bytes("from") == 16 * count
    assert fill.totals().load_sectors == 0
    for counters in (read, copy):
        # 32 lanes of 16 bytes side by side are 16 sectors; nothing is asked for twice
        assert counters.totals().load_sectors == counters.distinct_loaded_sectors == 16 * count // 32
    for counters in (copy, fill):
        assert counters.totals().store_sectors == counters.distinct_stored_sectors == 16 * count // 32


def test_kernels_ceilings_look_random() -> None:
    target = words(4096)
    CeilingKernels(DEVICE, SHAPE).fill(target, seed=1)
    bits = np.unpackbits(target.view(np.uint8)).reshape(-1, 32)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.03  # each of the 32 bits is a fair coin, 16,384 times
    assert np.unique(target).size > 0.99 * target.size


def test_kernels_ceilings_fill_the_device() -> None:
    assert {shape.blocks for shape in ceiling_shapes(EmulatedDevice())} == {4, 6, 8}


def test_kernels_ceilings_refuse() -> None:
    kernels, data = CeilingKernels(DEVICE, SHAPE), words(4)
    with pytest.raises(InvalidCase, match="must be whole lanes of 16 bytes"):
        kernels.read(data[:-1])
    with pytest.raises(InvalidCase, match="must be whole lanes of 16 bytes"):
        kernels.read(data[1:-3])
    with pytest.raises(InvalidCase, match="must have as many bytes as the source, 64"):
        kernels.copy(data, data[:-4])
