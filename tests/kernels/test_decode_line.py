# SPDX-License-Identifier: Apache-2.0
"""What the blocks of a decode grid read side by side, from the very walk that the kernels compile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pabench.kernels.decode_launches import shares_of
from pabench.problem.dtypes import Array
from tests.support.probe import probe

HEADS, TILE_TOKENS = 8, 64
BLOCKS = 264
"""Two of each multiprocessor of an H200."""
LENGTHS = tuple(1000 + 193 * i % 3001 for i in range(64))
NOTHING = -1


def reads_of(lengths: tuple[int, ...], *, heads: int, blocks: int) -> Array:
    """``(blocks, steps, 3)``: sequence, tile and KV head, -1 where a share has ended."""
    count, shares = len(lengths), blocks // heads
    kv_lens = np.asarray(lengths, np.int32)
    indptr = np.arange(count + 1, dtype=np.int32)
    line, first = np.zeros(count + 1, np.int64), np.zeros(shares, np.int32)
    arrivals = np.zeros(shares * heads, np.uint32)
    sizes = (np.int32(count), np.int32(heads))
    probe(
        "shares", "plan", kv_lens, indptr, line, first, arrivals, *sizes, np.int32(shares), shared_bytes=256
    )
    steps = int(line[-1]) // shares + 2
    reads = np.full((blocks, steps, 3), NOTHING, np.int32)
    probe("shares", "walk", kv_lens, indptr, line, first, reads, *sizes, np.int32(steps), grid=(blocks, 1, 1))
    assert (reads[:, -1] == NOTHING).all()
    return reads


def tokens_a_step(reads: Array, steps: int) -> float:
    """Tokens of which the grid reads some head in one step, on average over the first ``steps``."""
    tiles = [np.unique(reads[:, n, :2][reads[:, n, 1] != NOTHING], axis=0) for n in range(steps)]
    return float(np.mean([TILE_TOKENS * len(found) for found in tiles]))


def read_in_all(reads: Array) -> list[tuple[int, ...]]:
    """Sequence, tile and KV head of all that is read, in order."""
    return sorted(tuple(read) for read in reads.reshape(-1, 3).tolist() if read[1] != NOTHING)


def of_one_line(reads: Array) -> Array:
    """The same of a line over sequences and heads: that of one head, over each sequence ``HEADS`` times."""
    sequences, tiles = reads[..., 0], reads[..., 1]
    split = np.stack([sequences // HEADS, tiles, sequences % HEADS], axis=-1)
    return np.where(tiles[..., None] == NOTHING, NOTHING, split)


def test_kernels_decode_line_neighbours_read_the_heads_of_the_same_tokens() -> None:
    reads = reads_of(LENGTHS, heads=HEADS, blocks=BLOCKS)
    together = reads.reshape(BLOCKS // HEADS, HEADS, -1, 3)
    assert (together[..., :2] == together[:, :1, :, :2]).all()
    live = together[..., 1] != NOTHING
    heads = np.broadcast_to(np.arange(HEADS)[:, None], live.shape[1:])
    assert (together[..., 2] == np.where(live, heads, NOTHING)).all()


def test_kernels_decode_line_reads_every_tile_of_every_head_once() -> None:
    for lengths, blocks in ((LENGTHS, BLOCKS), ((0, 1, 64, 65, 0), 24), ((300,), 265)):
        reads = reads_of(lengths, heads=HEADS, blocks=blocks)
        wanted = [
            (sequence, tile, head)
            for sequence, length in enumerate(lengths)
            for tile in range(max(1, -(-length // TILE_TOKENS)))
            for head in range(HEADS)
        ]
        assert read_in_all(reads) == wanted


def test_kernels_decode_line_touches_fewer_tokens_in_a_step() -> None:
    """The figures in docs/kernels.md: of a token one head's 256 bytes were read in a step, now all 2 KB."""
    side_by_side = reads_of(LENGTHS, heads=HEADS, blocks=BLOCKS)
    repeated = tuple(length for length in LENGTHS for _ in range(HEADS))
    in_turn = of_one_line(reads_of(repeated, heads=1, blocks=BLOCKS))
    assert read_in_all(in_turn) == read_in_all(side_by_side)
    steps = min(int((reads[..., 1] != NOTHING).sum(axis=1).min()) for reads in (side_by_side, in_turn))
    before, after = tokens_a_step(in_turn, steps), tokens_a_step(side_by_side, steps)
    assert after == BLOCKS // HEADS * TILE_TOKENS
    page = (Path(__file__).resolve().parents[2] / "docs" / "kernels.md").read_text(encoding="utf-8")
    assert f"{before:,.0f} tokens before, {after:,.0f} now" in page.replace("\n", " ")


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 7, 116, 264])
def test_kernels_decode_line_shares_of_a_head(blocks: int) -> None:
    """One turn of the device where that has four shares a head; else the turns that are done soonest."""
    for heads in range(1, 300):
        shares = shares_of(blocks, heads)
        turns = -(-shares * heads // blocks)
        if blocks >= 4 * heads:
            assert shares == blocks // heads
            assert turns == 1
        else:
            assert 1 <= shares <= min(4, blocks)
            soonest = min(-(-few * heads // blocks) / few for few in range(1, min(4, blocks) + 1))
            assert turns / shares == soonest


def test_kernels_decode_line_shares_of_a_head_in_numbers() -> None:
    found = {heads: shares_of(264, heads) for heads in (1, 8, 10, 40, 88, 100, 160, 500)}
    assert found == {1: 264, 8: 33, 10: 26, 40: 6, 88: 3, 100: 4, 160: 3, 500: 4}
