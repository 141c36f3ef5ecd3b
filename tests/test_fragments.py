"""The layout of tiles in shared memory has no bank conflicts, neither when written nor when read."""

from __future__ import annotations

import numpy as np
import pytest

from pabench.problem.dtypes import Array
from tests.probe import probe

CHUNKS = (2, 6, 8, 10, 12, 14, 16, 24, 32)


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
