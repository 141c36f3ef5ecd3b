# SPDX-License-Identifier: Apache-2.0
"""Global memory: requests, bytes, sectors and which lanes make one request."""

from __future__ import annotations

import numpy as np
import pytest

from pabench.device.checked import KernelFindings
from pabench.device.counter_rows import LocationCounts
from tests.support.counting import count, counting_device, line_of, words


@pytest.mark.parametrize(
    ("start", "stride", "sectors", "ideal"),
    [
        (0, 1, 4, 4),  # side by side
        (0, 0, 1, 1),  # all the same word: one sector for 128 bytes asked for
        (0, 2, 8, 4),
        (0, 8, 32, 4),  # a sector a lane
        (0, 1000, 32, 4),
        (4, 1, 5, 4),  # begins in the middle of a sector
        (7, 1, 5, 4),
        (31, -1, 4, 4),  # backwards
    ],
)
def test_counters_global_strides(start: int, stride: int, sectors: int, ideal: int) -> None:
    counted = count("strided", words(32_000), words(32), np.int32(start), np.int32(stride))
    totals = counted.totals()
    assert (totals.load_requests, totals.load_bytes, totals.load_sectors) == (1, 128, sectors)
    assert (totals.store_requests, totals.store_bytes, totals.store_sectors) == (1, 128, 4)
    assert counted.distinct_loaded_sectors == sectors
    assert counted.distinct_stored_sectors == 4
    (row,) = counted.of("from")
    assert (row.file, row.line) == ("counts.cu", line_of("from[start +"))
    assert (row.lanes, row.ideal_sectors) == (32, ideal)
    assert totals.sectors_per_request == (sectors + 4) / 2


def test_counters_global_do_not_depend_on_where_an_array_lies() -> None:
    # sectors are counted from the start of the allocation, as if it began where a GPU's would
    whole = words(1032)
    at = [count("strided", whole[skip:], words(32), np.int32(0), np.int32(1)) for skip in range(9)]
    assert [one.totals().load_sectors for one in at] == [4, 5, 5, 5, 5, 5, 5, 5, 4]


def test_counters_global_part_of_a_warp() -> None:
    counted = count("strided", words(100), words(40), np.int32(0), np.int32(1), threads=40)
    totals = counted.totals()
    assert (totals.load_requests, totals.load_bytes, totals.load_sectors) == (2, 160, 5)


def test_counters_global_distinct_sectors_are_those_of_the_launch() -> None:
    counted = count("strided", words(64), words(32), np.int32(0), np.int32(1), blocks=5)
    assert counted.totals().load_sectors == 20
    assert counted.distinct_loaded_sectors == 4
    twice = counted + counted
    assert (twice.launches, twice.totals().load_sectors, twice.distinct_loaded_sectors) == (2, 40, 8)


def test_counters_global_divergent_halves_are_two_requests() -> None:
    counted = count("halves", words(2048), words(32))
    low, high = (
        next(row for row in counted.of("from") if row.line == line_of(text))
        for text in ("// the low half", "// the high half")
    )
    assert (low.requests, low.lanes, low.sectors) == (1, 16, 2)
    assert (high.requests, high.lanes, high.sectors) == (1, 16, 2)
    assert counted.totals().store_requests == 1  # together again


def test_counters_global_loops_of_different_lengths() -> None:
    counted = count("trips", words(32 * 32), words(32))
    # round i has lanes i to 31: words 32 i + i to 32 i + 31
    sectors = sum(4 - i // 8 for i in range(32))
    (row,) = counted.of("from")
    assert (row.requests, row.lanes, row.sectors) == (32, 32 * 33 // 2, sectors)
    assert (row.nbytes, row.ideal_sectors) == (4 * row.lanes, sum(-(-4 * (32 - i) // 32) for i in range(32)))
    assert counted.totals().store_requests == 1


def test_counters_global_occurrences_start_anew_at_a_barrier() -> None:
    once = count("trips", words(32 * 32), words(32)).of("from")[0]
    twice = count("trips_twice", words(32 * 32), words(32)).of("from")[0]
    assert (twice.requests, twice.lanes, twice.sectors, twice.ideal_sectors) == (
        2 * once.requests,
        2 * once.lanes,
        2 * once.sectors,
        2 * once.ideal_sectors,
    )


@pytest.mark.parametrize("rounds", [100, 2048, 5000, 20_000])
def test_counters_global_more_requests_than_the_log_holds(rounds: int) -> None:
    counted = count("long_run", words(4096), words(32), np.int32(rounds))
    (row,) = counted.of("from")
    assert (row.requests, row.lanes) == (rounds, 16 * rounds + 16 * (rounds // 2))
    assert row.sectors == 4 * (rounds // 2) + 2 * (rounds - rounds // 2)
    assert counted.totals().store_bytes == 128


def test_counters_global_a_loop_without_end_is_a_finding() -> None:
    device = counting_device(step_budget=100_000)
    with pytest.raises(KernelFindings, match=r"sync: a block made 100000 steps .* counts.cu"):
        count("long_run", words(4096), words(32), np.int32(2**31 - 1), device=device)
    assert count("long_run", words(4096), words(32), np.int32(100), device=device).launches == 1


def test_counters_global_request_over_two_buffers() -> None:
    counted = count("two_buffers", words(32), words(32), words(32))
    rows = {row.memory: row for row in counted.locations if row.event == "load"}
    assert (rows["a"].requests, rows["a"].lanes, rows["a"].sectors) == (1, 8, 8)
    assert (rows["b"].requests, rows["b"].lanes) == (0, 24)
    assert counted.totals().load_requests == 1


def test_counters_global_buffers_by_every_parameter() -> None:
    both = words(64)
    counted = count("two_buffers", both[:32], both[32:], words(32))
    assert [buffer.name for buffer in counted.buffers] == ["a+b", "to"]
    assert counted.loaded_bytes("a") == counted.loaded_bytes("b") == counted.loaded_bytes("a", "b") == 128


def test_counters_global_regions() -> None:
    counted = count("regions", words(96), words(32))
    assert counted.regions == ("", "few", "many", "one")

    def loads(region: str) -> list[LocationCounts]:
        return [row for row in counted.of("from") if row.region == region]

    assert [(row.requests, row.lanes) for row in loads("one")] == [(1, 32)]
    assert [(row.requests, row.lanes) for row in loads("few")] == [(1, 8)]
    assert [(row.requests, row.lanes) for row in loads("many")] == [(1, 24)]
    assert counted.totals(region="").load_requests == 1
    assert counted.totals().load_requests == 4
    assert counted.totals(region="one").load_bytes == 128
