# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pabench.device.emulated import EmulatedDevice
from tests.support.probe import probe

GRIDS = [
    ((7, 1, 1), (33, 1, 1)),
    ((3, 4, 1), (8, 5, 1)),
    ((2, 3, 4), (4, 3, 5)),
    ((1, 1, 9), (1, 1, 64)),
    ((1, 1, 1), (1024, 1, 1)),
]


@pytest.mark.parametrize(("grid", "block"), GRIDS)
def test_emulated_blocks_run_every_index_once(
    grid: tuple[int, int, int], block: tuple[int, int, int]
) -> None:
    indices = list(itertools.product(*(range(n) for n in (*grid[::-1], *block[::-1]))))
    seen, where = np.zeros(len(indices), np.uint32), np.zeros((len(indices), 6), np.uint32)
    probe("blocks", "indices", seen, where, grid=grid, block=block, seed=3)
    assert (seen == 1).all()
    expected = [(tx, ty, tz, bx, by, bz) for bz, by, bx, tz, ty, tx in indices]
    assert where.tolist() == [list(index) for index in expected]


def test_emulated_blocks_beyond_65535_in_x() -> None:
    seen, where = np.zeros(70_000, np.uint32), np.zeros((70_000, 6), np.uint32)
    probe("blocks", "indices", seen, where, grid=(70_000, 1, 1), block=(1, 1, 1))
    assert (seen == 1).all()
    assert where[:, 3].tolist() == list(range(70_000))


@pytest.mark.parametrize("threads", [1, 20, 96, 1000, 1024])
@pytest.mark.parametrize("rounds", [1, 2])
def test_emulated_blocks_meet_at_barriers(threads: int, rounds: int) -> None:
    given = np.arange(threads, dtype=np.uint32)
    for seed in range(3):
        out = np.zeros_like(given)
        sizes = (np.uint32(threads), np.uint32(rounds))
        probe(
            *("blocks", "reverse", given, out, *sizes),
            block=(threads, 1, 1),
            shared_bytes=4 * threads,
            seed=seed,
        )
        np.testing.assert_array_equal(out, given[::-1] if rounds % 2 else given)


@pytest.mark.parametrize("stay", [1, 31, 33, 64, 99])
def test_emulated_blocks_do_not_wait_for_threads_that_returned(stay: int) -> None:
    given = np.arange(100, dtype=np.uint32)
    for seed in range(4):
        out = np.full(100, 500, np.uint32)
        sizes = (np.uint32(stay), np.uint32(3))
        probe("blocks", "reverse", given, out, *sizes, block=(100, 1, 1), shared_bytes=400, seed=seed)
        assert out.tolist() == [*range(stay)][::-1] + [500] * (100 - stay)


@pytest.mark.parametrize("seed", range(5))
def test_emulated_blocks_pass_a_buffer_through_named_barriers(seed: int) -> None:
    given = np.arange(6 * 32, dtype=np.uint32) * 3
    out = np.zeros((6, 2, 32), np.uint32)
    probe(*("blocks", "pipeline", given, out, np.uint32(6)), block=(96, 1, 1), shared_bytes=128, seed=seed)
    for item, warp in itertools.product(range(6), range(2)):
        np.testing.assert_array_equal(out[item, warp], given[32 * item : 32 * item + 32][::-1] + warp + 1)


@pytest.mark.parametrize("seed", range(3))
def test_emulated_blocks_keep_named_barriers_apart(seed: int) -> None:
    out = np.zeros(256, np.uint32)
    probe("blocks", "pairs", out, block=(256, 1, 1), shared_bytes=1024, seed=seed)
    for pair in range(4):
        threads = range(64 * pair + 63, 64 * pair - 1, -1)
        assert out[64 * pair : 64 * pair + 64].tolist() == [thread * (pair + 1) for thread in threads]


@pytest.mark.parametrize("size", [1, 100, 4096, 200_000])
def test_emulated_blocks_start_with_poisoned_shared_memory(size: int) -> None:
    found = np.zeros((5, size), np.uint8)
    probe("blocks", "fresh_shared", found, np.uint32(size), grid=(5, 1, 1), shared_bytes=size)
    assert (found == np.resize(np.array([0xFF, 0x7F], np.uint8), size)).all()
    if size >= 4:
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
            assert torch.from_numpy(found).view(dtype).float().isnan().all()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_emulated_blocks_share_exact_atomics(workers: int) -> None:
    blocks, threads = 23, 48
    ids = np.arange(blocks * threads, dtype=np.uint64)
    word = np.array([0, 0, 2**32 - 1, 0, 2**32 - 1, 0, 0, 0], np.uint32)
    wide = np.array([0, 2**64 - 1, 0], np.uint64)
    device = EmulatedDevice(workers=workers)
    probe("blocks", "atomics", word, wide, grid=(blocks, 1, 1), block=(threads, 1, 1), device=device)
    total = int(ids.sum())
    assert word[:6].tolist() == [total, len(ids) - 1, 0, 2**32 - 1, 0, 3 * len(ids)]
    assert word[6] + word[7] == total
    assert wide.tolist() == [total << 32, 5, len(ids) << 40]


@pytest.mark.parametrize("threads", [2, 64, 200])
def test_emulated_blocks_hand_data_on_by_release_and_acquire(threads: int) -> None:
    for seed in range(3):
        flags, data = np.zeros(threads + 1, np.uint32), np.zeros(threads + 1, np.uint32)
        probe("blocks", "handed_on", flags, data, block=(threads, 1, 1), seed=seed)
        assert data.tolist() == list(range(threads + 1))


@pytest.mark.parametrize("skip", [0, 0xFFFFFFFF, 0x0F0F1234])
def test_emulated_blocks_get_copies_at_the_wait_and_not_before(skip: int) -> None:
    given = np.arange(4 * 32 * 4, dtype=np.float32).reshape(4, 32, 4)
    out = np.zeros((5, 4, 32, 4), np.float32)
    probe("blocks", "copies", given, out, np.uint32(skip), shared_bytes=given.nbytes)
    arrived = np.where((skip >> np.arange(32) & 1 == 1)[:, None], np.float32(0), given)
    for stage, landed in enumerate([0, 1, 2, 3, 4]):  # nothing, wait<2>, wait<1>, wait<0>, open group too
        np.testing.assert_array_equal(out[stage, :landed], arrived[:landed])
        assert np.isnan(out[stage, landed:]).all()


def ranks(seed: int, *, workers: int = 1, blocks: int = 3) -> list[int]:
    counter, rank = np.zeros(1, np.uint32), np.zeros(blocks * 3 * 96, np.uint32)
    device = EmulatedDevice(workers=workers)
    probe(
        *("blocks", "order", counter, rank), grid=(blocks, 1, 1), block=(96, 1, 1), seed=seed, device=device
    )
    assert sorted(rank.tolist()) == list(range(len(rank)))
    return rank.tolist()


def test_emulated_blocks_repeat_their_order_for_a_seed() -> None:
    assert ranks(11) == ranks(11)
    assert ranks(2**64 - 1) == ranks(2**64 - 1)


def test_emulated_blocks_take_another_order_for_another_seed() -> None:
    seeds = [np.reshape(ranks(seed), (3, 3, 3, 32)) for seed in range(12)]  # block, round, warp, lane
    assert len({order.tobytes() for order in seeds}) == 12
    first_blocks = {int(order[:, 0].min(axis=(1, 2)).argmin()) for order in seeds}
    assert first_blocks == {0, 1, 2}
    for block, turn in itertools.product(range(3), range(3)):
        first_warps = {int(order[block, turn].min(axis=1).argmin()) for order in seeds}
        assert first_warps == {0, 1, 2}
        for warp in range(3):
            first_lanes = {int(order[block, turn, warp].argmin()) for order in seeds}
            assert len(first_lanes) > 4, (block, turn, warp)


def test_emulated_blocks_keep_each_blocks_order_whatever_the_workers() -> None:
    one, many = (np.reshape(ranks(5, workers=workers, blocks=1), (3, 96)) for workers in (1, 4))
    np.testing.assert_array_equal(one, many)
