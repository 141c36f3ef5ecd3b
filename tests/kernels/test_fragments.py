# SPDX-License-Identifier: Apache-2.0
"""The layout of tiles in shared memory has no bank conflicts, neither when written nor when read."""

from __future__ import annotations

import numpy as np
import pytest

from pabench.problem.dtypes import Array
from tests.support.probe import probe

CHUNKS = (1, 3, 5, 7, 2, 6, 8, 10, 12, 14, 16, 24, 32)


def places(chunks: int) -> Array:
    """``(16, chunks)``: the 16-byte place of each chunk in a tile of 16 rows."""
    out = np.full((16, chunks), -1, np.int32)
    probe("swizzle", "swizzle", out, np.int32(chunks), block=(1, 1, 1))
    assert not (out % 16).any()
    return out // 16


@pytest.mark.parametrize("chunks", CHUNKS)
def test_fragments_keep_every_chunk_in_its_row(chunks: int) -> None:
    for row, found in enumerate(places(chunks)):
        assert sorted(found.tolist()) == list(range(row * chunks, (row + 1) * chunks))


@pytest.mark.parametrize("chunks", CHUNKS)
def test_fragments_are_read_without_bank_conflicts(chunks: int) -> None:
    """The eight rows of one matrix of ldmatrix lie in eight different groups of four banks."""
    found = places(chunks)
    for first in (0, 8):
        for chunk in range(chunks):
            assert len(set((found[first : first + 8, chunk] % 8).tolist())) == 8


@pytest.mark.parametrize("chunks", CHUNKS)
def test_fragments_are_written_without_bank_conflicts(chunks: int) -> None:
    """Eight neighbouring threads write eight neighbouring chunks, in eight different groups of four banks."""
    groups = places(chunks).reshape(-1, 8) % 8
    assert all(len(set(eight.tolist())) == 8 for eight in groups)


@pytest.mark.parametrize("steps", [1, 4, 5, 6, 7, 8, 12, 16])
def test_fragments_of_a_query_for_e4m3_are_read_and_written_without_bank_conflicts(steps: int) -> None:
    """Half a warp reads two chunks of four rows at a time; eight threads write eight neighbouring chunks."""
    out = np.full((16, 2 * steps), -1, np.int32)
    probe("swizzle", "query_for_e4m3", out, np.int32(steps), block=(1, 1, 1))
    found = out // 16
    assert not (out % 16).any()
    for row, places_of_row in enumerate(found):
        assert sorted(places_of_row.tolist()) == list(range(row * 2 * steps, (row + 1) * 2 * steps))
    assert (found[:, 1::2] == found[:, ::2] + 1).all()
    for first in (0, 4, 8, 12):
        for step in range(steps):
            read = found[first : first + 4, 2 * step : 2 * step + 2] % 8
            assert sorted(read.ravel().tolist()) == list(range(8))
    assert all(len(set(eight.tolist())) == 8 for eight in found.reshape(-1, 8) % 8)
