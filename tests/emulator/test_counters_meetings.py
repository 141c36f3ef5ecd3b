# SPDX-License-Identifier: Apache-2.0
"""Shared memory, atomic operations, meetings and asynchronous copies."""

from __future__ import annotations

import numpy as np
import pytest

from pabench.device.counters import SHARED
from tests.support.counting import count, line_of, words


@pytest.mark.parametrize(
    ("stride", "wavefronts"), [(1, 1), (0, 1), (2, 2), (3, 1), (4, 4), (8, 8), (16, 16), (32, 32), (33, 1)]
)
def test_counters_meetings_bank_conflicts(stride: int, wavefronts: int) -> None:
    counted = count("banks", words(32), np.int32(stride), shared_bytes=4 * 32 * 34)
    rows = [row for row in counted.locations if row.memory == SHARED]
    assert [(row.event, row.requests, row.wavefronts, row.ideal_wavefronts) for row in rows] == [
        ("store", 1, wavefronts, 1),
        ("load", 1, wavefronts, 1),
    ]
    assert (rows[0].file, rows[0].line) == ("counts.cu", line_of("// store to the tile"))
    totals = counted.totals()
    assert (totals.shared_requests, totals.wavefronts) == (2, 2 * wavefronts)
    assert totals.bank_conflicts == 2 * (wavefronts - 1)
    assert totals.barriers == 1


@pytest.mark.parametrize(
    ("entry", "stride", "ideal", "wavefronts"),
    [
        ("wide2", 2, 2, 2),  # side by side: half a warp fills the 32 banks
        ("wide2", 0, 2, 2),
        ("wide2", 4, 2, 4),  # lanes 0 and 8 of a half meet
        ("wide2", 16, 2, 16),
        ("wide4", 4, 4, 4),  # side by side: a quarter fills them
        ("wide4", 0, 4, 4),
        ("wide4", 8, 4, 8),
        ("wide4", 16, 4, 16),
    ],
)
def test_counters_meetings_wide_shared_reads(entry: str, stride: int, ideal: int, wavefronts: int) -> None:
    counted = count(entry, words(32), np.int32(stride), shared_bytes=4 * 32 * 16)
    (row,) = [row for row in counted.locations if row.region == "wide"]
    assert (row.requests, row.nbytes) == (1, 32 * (8 if entry == "wide2" else 16))
    assert (row.ideal_wavefronts, row.wavefronts) == (ideal, wavefronts)


def test_counters_meetings_atomics() -> None:
    counted = count("atomics", words(128), threads=64, shared_bytes=256)
    totals = counted.totals()
    assert totals.atomics == {"exch": 2, "add": 2, "cas": 2, "max": 2, "min": 2}
    rows = {row.event: row for row in counted.locations if row.event in totals.atomics}
    assert {kind: row.addresses for kind, row in rows.items()} == {
        "add": 2,  # one address for each warp
        "max": 64,
        "min": 2,
        "cas": 2,
        "exch": 4,  # two words of shared memory for each warp
    }
    assert {kind: row.sectors for kind, row in rows.items()} == {
        "add": 2,
        "max": 8,
        "min": 2,
        "cas": 2,
        "exch": 0,
    }
    assert (rows["exch"].wavefronts, rows["exch"].memory) == (2, SHARED)
    assert (totals.load_requests, totals.store_requests) == (0, 0)
    # they read and write memory
    assert (counted.distinct_loaded_sectors, counted.distinct_stored_sectors) == (9, 9)


def test_counters_meetings_collectives() -> None:
    totals = count("meetings", words(128), threads=128).totals()
    assert totals.collectives == {"warp_sync": 4, "shuffle": 4, "ballot": 4, "reduce_add": 4}
    assert (totals.barriers, totals.fences) == (4, 4)


@pytest.mark.parametrize("valid", [32, 20, 0])
def test_counters_meetings_asynchronous_copies(valid: int) -> None:
    counted = count("copies", words(1024), words(32), np.int32(3), np.uint32(valid), shared_bytes=512)
    totals = counted.totals()
    assert (totals.async_copies, totals.async_copy_bytes, totals.async_commits) == (3, 3 * 512, 3)
    # what is filled with zeros is not asked for
    assert totals.load_bytes == 3 * 16 * valid
    assert totals.load_requests == (3 if valid else 0)
    assert totals.load_sectors == 3 * valid // 2


def test_counters_meetings_a_wait_counts_once() -> None:
    counted = count("polls", words(1), words(64), threads=64)
    (row,) = counted.of("flag")
    assert (row.requests, row.lanes) == (2, 63)
    assert counted.stored_bytes("flag") == 4
