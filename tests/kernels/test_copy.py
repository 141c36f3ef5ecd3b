# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.device.checked import CheckedDevice
from pabench.device.emulated import EmulatedDevice
from pabench.errors import InvalidCase
from pabench.kernels.page_copy import copy_pages
from pabench.problem import KvPool
from pabench.problem.dtypes import Array
from pabench.selftest.mutants import Mutant, load_mutants
from pabench.subjects.allocators.scan import ScanAllocator
from pabench.subjects.backends.rawkernel import RawKernelBackend
from tests.support.allocator_support import shape_of
from tests.support.kill_support import examine, place_of, plant
from tests.support.probe import DEVICE

PAGES = 7
MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "page_copy.toml")


def pool_of(
    rng: np.random.Generator, kv_layout: str, interleaved: bool, page: tuple[int, int, int]
) -> KvPool:
    """Random bytes in every slot; ``page`` is page_size, heads, head_dim."""
    size, heads, dim = page
    inner = (size, heads, dim) if kv_layout == "NHD" else (heads, size, dim)
    outer = (PAGES, 2) if interleaved else (2, PAGES)
    return KvPool(
        storage=rng.integers(0, 2**16, (*outer, *inner), np.uint16).view(np.float16),
        kv_layout=kv_layout,
        interleaved=interleaved,
    )


def expected(pool: KvPool, copies: list[tuple[int, int, int]]) -> bytes:
    after = pool.with_storage(pool.storage.copy())
    for source, target, slots in copies:
        for cache in (after.k, after.v):
            first = np.s_[:slots] if pool.kv_layout == "NHD" else np.s_[:, :slots]
            cache[target][first] = cache[source][first]
    return bytes(after.storage.tobytes())


def run(pools: list[KvPool], copies: list[tuple[int, int, int]], device: EmulatedDevice = DEVICE) -> None:
    # what lies behind the count must not be looked at; a fault that looks finds a harmless copy
    rows: Array = np.array([*copies, (0, 0, 0)], np.int32)
    copy_pages(device, pools, rows, np.array([len(copies)], np.int64))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_kernels_copy_like_numpy_property(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    page = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 4), st.sampled_from([1, 2, 3, 8, 40, 64])))
    layout, interleaved = data.draw(st.sampled_from(["NHD", "HND"])), data.draw(st.booleans())
    pools = [pool_of(rng, layout, interleaved, page) for _ in range(data.draw(st.integers(1, 3)))]
    targets = data.draw(st.lists(st.integers(0, PAGES - 1), max_size=PAGES - 1, unique=True))
    sources = [number for number in range(PAGES) if number not in targets]
    copies = [
        (data.draw(st.sampled_from(sources)), target, data.draw(st.integers(0, page[0])))
        for target in targets
    ]
    wanted = [expected(pool, copies) for pool in pools]
    run(pools, copies)
    assert [pool.storage.tobytes() for pool in pools] == wanted


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kernels_copy_kills(mutant: Mutant, tmp_path: Path) -> None:
    kernels = plant(mutant, tmp_path)
    for seed in range(3):
        outcome = examine(mutant.killed_by, kernels, seed=seed).outcome
        assert outcome is not None, f"{mutant.id} lives with seed {seed}"
        assert re.search(place_of(mutant.killed_by), outcome.text), outcome.text


def test_kernels_copy_keeps_what_it_is_given() -> None:
    backend = RawKernelBackend(DEVICE)
    pool = pool_of(np.random.default_rng(2), "HND", True, (4, 2, 8))
    before = pool.storage.tobytes()
    rows: Array = np.array([(0, 3, 2), (5, 1, 4), (2, 2, 9)], np.int32)
    (after,) = backend.copy_pages([pool], rows, count=2)
    assert pool.storage.tobytes() == before
    assert after.tobytes() == expected(pool, [(0, 3, 2), (5, 1, 4)])


@pytest.mark.parametrize(
    ("copies", "count", "words"),
    [
        ([(0, 7, 1)], 1, r"copies\[0\] target = 7"),
        ([(0, 3, 1), (-1, 2, 1)], 2, r"copies\[1\] source = -1"),
        ([(0, 3, 3)], 1, r"copies\[0\] slots = 3"),
        ([(0, 3, 1), (1, 3, 1)], 2, "must not name a page twice"),
        ([(0, 3, 1), (3, 4, 1)], 2, "must not be a source as well"),
        ([(0, 3, 1)], 2, "count = 2"),
        ([(0, 3)], 1, r"copies = 'int32\[1, 2\]': must be int32\[n, 3\]"),
    ],
)
def test_kernels_copy_refuses_copies_that_cannot_be(copies: list[Any], count: int, words: str) -> None:
    pool = pool_of(np.random.default_rng(0), "NHD", False, (2, 2, 8))
    with pytest.raises(InvalidCase, match=words):
        RawKernelBackend(DEVICE).copy_pages([pool], np.array(copies, np.int32), count=count)


def test_kernels_copy_refuses_pools_that_differ() -> None:
    rng = np.random.default_rng(0)
    a, b = pool_of(rng, "NHD", False, (2, 2, 8)), pool_of(rng, "HND", False, (2, 2, 8))
    for pools, words in (([], "pools = 0: must be at least one"), ([a, b], "must be alike")):
        with pytest.raises(InvalidCase, match=words):
            run(pools, [])


def test_kernels_copy_carries_out_what_the_allocator_asks_for() -> None:
    """Fork, write, read back: parent and child differ from where they part."""
    device = CheckedDevice()
    shape = shape_of(PAGES, 4, 4, 4)
    scan, pool = ScanAllocator(device, shape), pool_of(np.random.default_rng(1), "NHD", False, (4, 1, 8))
    pool = pool.with_storage(device.to_device(pool.storage))
    scan.alloc(0, 6)
    scan.fork(0, 1)
    scan.fork(0, 2)
    pages = scan.block_table()[0, :2].copy()
    before = pool.k[pages[1], :2].tobytes()
    granted = scan.append_batch([2, 0, 1], 1)
    assert granted.copies.tolist() == [[pages[1], 2, 2], [pages[1], 3, 2]]  # the last holder keeps the page
    copy_pages(device, [pool], scan._state.copies, scan._state.status[7:8])
    for sequence in (0, 1, 2):
        assert pool.k[scan.block_table()[sequence, 1], :2].tobytes() == before
