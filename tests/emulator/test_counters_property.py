# SPDX-License-Identifier: Apache-2.0
"""Same input, same numbers: whatever the schedule, however many workers."""

from __future__ import annotations

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.device.counters import Counters
from tests.support.counting import count, counting_device, words


def kernels(seed: int, workers: int) -> list[Counters]:
    """Counters of kernels that diverge, meet, wait and overflow their logs."""
    device = counting_device(seed=seed, workers=workers)
    return [
        count("trips", words(1024), words(96), threads=96, device=device),
        count("halves", words(2048), words(64), threads=64, blocks=3, device=device),
        count("meetings", words(128), threads=96, blocks=4, device=device),
        count("atomics", words(128), threads=64, shared_bytes=256, blocks=3, device=device),
        count("polls", words(1), words(64), threads=64, device=device),
        count("long_run", words(4096), words(128), np.int32(3000), threads=64, blocks=2, device=device),
        count("regions", words(200), words(64), threads=64, blocks=2, device=device),
        count(
            "copies",
            *(words(4096), words(32), np.int32(5), np.uint32(7)),
            shared_bytes=512,
            blocks=2,
            device=device,
        ),
    ]


@functools.cache
def expected() -> list[str]:
    return [counted.to_json() for counted in kernels(0, 1)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), workers=st.integers(1, 4))
def test_counters_do_not_depend_on_the_schedule_property(seed: int, workers: int) -> None:
    assert [counted.to_json() for counted in kernels(seed, workers)] == expected()


@settings(max_examples=30, deadline=None)
@given(
    start=st.integers(0, 40),
    stride=st.integers(-40, 40),
    threads=st.integers(1, 64),
)
def test_counters_of_a_stride_property(start: int, stride: int, threads: int) -> None:
    base = 63 * 40
    counted = count(
        *("strided", words(2 * base + 41), words(64), np.int32(base + start), np.int32(stride)),
        threads=threads,
    )
    places = [(base + start + lane * stride) * 4 // 32 for lane in range(threads)]
    warps = [places[at : at + 32] for at in range(0, threads, 32)]
    totals = counted.totals()
    assert totals.load_requests == len(warps)
    assert totals.load_sectors == sum(len(set(warp)) for warp in warps)
    assert counted.distinct_loaded_sectors == len(set(places))


@settings(max_examples=30, deadline=None)
@given(stride=st.integers(0, 33), threads=st.integers(1, 32))
def test_counters_of_bank_conflicts_property(stride: int, threads: int) -> None:
    counted = count("banks", words(32), np.int32(stride), threads=threads, shared_bytes=4 * 32 * 34)
    by_bank: dict[int, set[int]] = {}
    for lane in range(threads):
        by_bank.setdefault(lane * stride % 32, set()).add(lane * stride)
    assert counted.totals().wavefronts == 2 * max(len(words_of) for words_of in by_bank.values())
