# SPDX-License-Identifier: Apache-2.0
"""Which rows and keys each block of FlashInfer's kernels has: what its scheduler plans on the host."""

from __future__ import annotations

from dataclasses import dataclass, field

CHUNK = 256
"""Keys of a chunk where keys are split; its scheduler fits it to the number of multiprocessors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Which block of threads has which rows and keys.

    Attributes:
        requests: sequence of each block.
        rows: tile of its query rows.
        keys: chunk of its keys.
        starts: where what a sequence's blocks write begins, in rows.
        states: of each query row, where its states begin; one more at the end.  Empty where keys are whole.
        chunk: keys of a chunk.
    """

    requests: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    states: list[int] = field(default_factory=list)
    chunk: int = CHUNK


def plan_tiles(
    kv_lens: list[int], q_lens: list[int], *, group: int, tile: int, page_size: int, window: int = -1
) -> Tiles:
    """Return the tiles of a batch: as FlashInfer's ``PrefillSplitQOKVIndptr``, with chunks of one size.

    Args:
        kv_lens: keys of each sequence.
        q_lens: query rows of each sequence.
        group: query heads a KV head; rows of a tile are rows times heads.
        tile: of them in a tile.
        page_size: chunks are whole pages.
        window: keys before the row's own that it sees, -1 for all.
    """
    chunk = -(-CHUNK // page_size) * page_size
    seen = [min(max(n, 1), (window if window >= 0 else n) + tile) for n in kv_lens]
    split = max(seen, default=0) > chunk
    tiles = Tiles(starts=[0], states=[0] if split else [], chunk=chunk)
    for sequence, (keys, rows) in enumerate(zip(seen, q_lens, strict=True)):
        chunks = -(-keys // chunk) if split else 1
        for row in range(-(-rows * group // tile)):
            for key in range(chunks):
                tiles.requests.append(sequence)
                tiles.rows.append(row)
                tiles.keys.append(key)
        tiles.starts.append(tiles.starts[-1] + rows * chunks)
        if split:
            first = tiles.states[-1]
            tiles.states.extend(first + chunks * (row + 1) for row in range(rows))
    return tiles
