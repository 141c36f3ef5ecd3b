# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.problem.dtypes import Array
from tests.support.probe import probe

FULL = 0xFFFFFFFF
LANES = np.arange(32)
VALUES = {
    "f32": np.linspace(-3, 5, 32, dtype=np.float32),
    "u32": (LANES * 0x08888889).astype(np.uint32),
    "i32": (LANES * 7 - 100).astype(np.int32),
    "u64": (LANES.astype(np.uint64) << np.uint64(58)) + np.uint64(3),
    "i64": LANES * (1 << 40) * (-1) ** LANES - 1,
}


def in_mask(mask: int) -> Array:
    return np.array([mask >> lane & 1 == 1 for lane in range(32)])


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("mask", [FULL, 0x0000FFFF, 0xA5A5F00F])
@pytest.mark.parametrize("amount", [0, 1, 5, 16, 31])
def test_emulated_collectives_shuffle_every_type(kind: str, mask: int, amount: int) -> None:
    given_values = VALUES[kind]
    out = np.full(128, 77, given_values.dtype)
    probe("collectives", f"shuffles_{kind}", given_values, out, np.uint32(mask), np.uint32(amount))
    sources = {
        "xor": LANES ^ amount,
        "up": np.where(amount > LANES, LANES, LANES - amount),
        "down": np.where(LANES + amount > 31, LANES, LANES + amount),
        "idx": np.full(32, amount),
    }
    for (name, source), got in zip(sources.items(), out.reshape(4, 32), strict=True):
        defined = in_mask(mask) & in_mask(mask)[source]
        assert defined.all() or mask != FULL
        np.testing.assert_array_equal(got[defined], given_values[source][defined], err_msg=name)
        np.testing.assert_array_equal(got[~in_mask(mask)], 77)
        undefined = in_mask(mask) & ~in_mask(mask)[source]  # nobody can take it for a value
        assert (got[undefined].view(np.uint16) == 0x7FFF).all()


@settings(max_examples=40, deadline=None)
@given(
    mask=st.integers(1, FULL),
    values=st.lists(st.sampled_from([0, 1, 2, 3, FULL]), min_size=32, max_size=32),
    seed=st.integers(0, 2**32),
)
def test_emulated_collectives_vote_like_their_definition_property(
    mask: int, values: list[int], seed: int
) -> None:
    out = np.zeros((32, 5), np.uint32)
    probe("collectives", "votes", np.array(values, np.uint32), out, np.uint32(mask), seed=seed)
    lanes = [lane for lane in range(32) if mask >> lane & 1]
    odd = sum(1 << lane for lane in lanes if values[lane] & 1)
    total = sum(values[lane] for lane in lanes) % 2**32
    for lane in range(32):
        alike = sum(1 << other for other in lanes if values[other] == values[lane])
        expected = [odd, odd != 0, odd == mask, alike, total] if lane in lanes else [0] * 5
        assert out[lane].tolist() == expected


@pytest.mark.parametrize("seed", range(4))
def test_emulated_collectives_of_disjoint_masks_run_at_once(seed: int) -> None:
    rounds, together = np.zeros(32, np.uint32), np.zeros(32, np.uint32)
    probe("collectives", "disjoint", rounds, together, seed=seed)
    for group in range(3):
        lanes = LANES[group == LANES % 3]
        value = int(lanes.sum()) * len(lanes) ** (1 + group)
        assert set(rounds[lanes].tolist()) == {value % 2**32}
    assert set(together.tolist()) == {int((LANES % 3).sum())}


@pytest.mark.parametrize("seed", range(4))
def test_emulated_collectives_in_divergent_branches(seed: int) -> None:
    inside, after = np.zeros(32, np.uint32), np.zeros(32, np.uint32)
    probe("collectives", "divergent", inside, after, seed=seed)
    even = sum(1 << lane for lane in range(0, 11, 2))
    assert set(inside[:11].tolist()) == {even}
    assert set(inside[11:].tolist()) == {21}  # a value xor itself, plus 21 lanes
    assert set(after.tolist()) == {FULL & ~0x7FF}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("leave", [0x1, 0x80000000, 0x5555AAAA, 0xFFFFFFFE])
def test_emulated_collectives_do_not_wait_for_lanes_that_returned(leave: int, seed: int) -> None:
    out = np.zeros((32, 4), np.uint32)
    probe("collectives", "leavers", np.uint32(leave), out, seed=seed)
    stay = FULL & ~leave
    lanes = LANES[in_mask(stay)]
    for lane in range(32):
        expected = [stay, int(lanes.sum()), 1, stay] if lane in lanes else [0] * 4
        assert out[lane].tolist() == expected


@pytest.mark.parametrize("seed", range(6))
def test_emulated_collectives_go_on_as_lanes_return_one_by_one(seed: int) -> None:
    out = np.zeros((32, 32), np.uint32)
    probe("collectives", "dwindling", out, seed=seed)
    for lane in range(32):
        assert out[: lane + 1, lane].tolist() == [FULL << r & FULL for r in range(lane + 1)]


@pytest.mark.parametrize("threads", [1, 5, 31, 33, 48, 100])
def test_emulated_collectives_in_warps_of_fewer_threads(threads: int) -> None:
    out = np.zeros((threads, 4), np.uint32)
    probe("collectives", "leavers", np.uint32(0), out, block=(threads, 1, 1), seed=threads)
    for thread in range(threads):
        size = min(32, threads - thread // 32 * 32)
        all_there = (1 << size) - 1
        assert out[thread].tolist() == [all_there, size * (size - 1) // 2, 1, all_there]


@pytest.mark.parametrize("block", [(40, 1, 1), (5, 4, 3), (1, 1, 33)])
def test_emulated_collectives_number_lanes_along_x_first(block: tuple[int, int, int]) -> None:
    threads = block[0] * block[1] * block[2]
    index, below = np.zeros(threads, np.uint32), np.zeros(threads, np.uint32)
    counts = np.zeros((threads, 2), np.uint32)
    probe("collectives", "lanes", index, below, counts, block=block)
    assert index.tolist() == [thread % 32 for thread in range(threads)]
    assert below.tolist() == [(1 << thread % 32) - 1 for thread in range(threads)]
    for thread in range(threads):
        assert counts[thread, 0] == (thread * 0x9E3779B9 % 2**32).bit_count()
        lowest = thread & -thread
        assert counts[thread, 1] == (lowest.bit_length() + 3 if thread else 0)
