# SPDX-License-Identifier: Apache-2.0
"""The kill matrix of what only large things show, and how a pool larger than memory is made."""

from __future__ import annotations

import re
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pabench.errors import Unsupported
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.huge_pool import WRAPS, reserved_zeros, wrap_pages
from pabench.problem.placement import HUGE_POOL
from pabench.selftest.mutants import Mutant, load_mutants
from pabench.subjects.backends.base import Capabilities
from pabench.subjects.registry import load_allocator
from tests.support.kill_support import ask, device_of, examine, killed, place_of, plant

PLANTED = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "wide.toml")
CROWDED = [mutant for mutant in PLANTED if mutant.killed_by == "allocator-invariants[crowd]"]
MUTANTS = [mutant for mutant in PLANTED if mutant not in CROWDED]
SEEDS = (0, 1)
WIDEST = {"decode[wide-heads]": 576, "decode[head-dims]": 80}
"""Largest head_dim, by question: each is one more kernel to compile."""
CASE = Case(
    problem=Problem(num_qo_heads=2, num_kv_heads=2, head_dim=16, page_size=4, dtype="float16"),
    batch=Batch(kv_lens=(33, 70)),
    placement=HUGE_POOL,
    poison="nan",
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_huge_pool_kills(mutant: Mutant, tmp_path: Path) -> None:
    kernels = plant(mutant, tmp_path)
    backend = "rawkernel-mma" if mutant.id.startswith("mma") else "rawkernel"
    for seed in SEEDS:
        widest = 256 if backend == "rawkernel-mma" else WIDEST.get(mutant.killed_by, 16)
        text = killed(mutant, kernels, seed=seed, backend=backend, max_head_dim=widest)
        assert text is not None, f"{mutant.id} lives with seed {seed}"
        assert re.search(place_of(mutant.killed_by), text), text


@pytest.mark.parametrize("mutant", CROWDED, ids=lambda mutant: mutant.id)
def test_kill_huge_pool_kills_what_a_crowd_shows(mutant: Mutant, tmp_path: Path) -> None:
    device = device_of(plant(mutant, tmp_path))
    outcome = ask(mutant.killed_by, load_allocator("scan"), device, profile="default").outcome
    assert outcome is not None
    assert re.search(r"^operation \d+ \(free\): ", outcome.text), outcome.text


def test_kill_huge_pool_needs_high_offsets(tmp_path: Path) -> None:
    """The same faults live where page ids are merely high."""
    for mutant in MUTANTS[:2]:
        assert examine("decode[high-page-ids]", plant(mutant, tmp_path / mutant.id)).outcome is None


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("kv_layout", ["NHD", "HND"])
def test_huge_pools_put_pages_on_both_sides_of_every_wrap(kv_layout: str, interleaved: bool) -> None:
    case = replace(CASE, kv_layout=kv_layout, interleaved=interleaved)
    tensors = build_tensors(case)
    page_stride, itemsize = tensors.pool.element_strides[0], 2
    assert page_stride == 4 * 2 * 16 * (2 if interleaved else 1)
    used = np.concatenate([tensors.layout.pages(i, n) for i, n in enumerate(case.batch.kv_lens)])
    assert len(set(used.tolist())) == len(used)
    for wrap in WRAPS:
        for unit in (1, itemsize):
            offsets = used.astype(object) * page_stride * unit
            assert any(wrap <= offset < wrap * 1.1 for offset in offsets)
            assert any(wrap * 0.9 < offset < wrap for offset in offsets)
    assert used.max() < tensors.layout.num_pages == tensors.pool.num_pages
    again = build_tensors(case)
    assert np.array_equal(again.layout.block_table, tensors.layout.block_table)


def test_huge_pools_cost_address_space_alone() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tensors = build_tensors(replace(CASE, problem=replace(CASE.problem, dtype="float32")))
    assert tensors.pool.storage.nbytes > 30 * 2**30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


def test_huge_pools_need_a_backend_that_says_so() -> None:
    can = Capabilities(dtypes=frozenset({"float16"}))
    assert can.why_not(CASE) == "no pools larger than memory"
    assert replace(can, huge_pools=True).why_not(CASE) is None


def test_huge_pools_wrap_pages_are_the_first_past_each_wrap() -> None:
    assert wrap_pages(2**20, 2) == (2**10, 2**11, 2**12)
    assert wrap_pages(3, 1) == (-(-(2**31) // 3), -(-(2**32) // 3))


def test_huge_pools_that_cannot_be_reserved_are_unsupported() -> None:
    with pytest.raises(Unsupported, match=r"a pool of \d+ GiB cannot be reserved on this machine"):
        reserved_zeros((2**60,), np.dtype(np.float32))
