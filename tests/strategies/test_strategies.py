# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis import strategies as st

from pabench.problem.append import AppendCase, append_case_from_dict, build_append
from pabench.problem.batch import Batch
from pabench.problem.case import POISONS, Case, case_from_dict
from pabench.problem.dtypes import DTYPES
from pabench.problem.families import FAMILIES
from pabench.problem.placement import HIGH_PAGE_BASE, PLACEMENTS, TABLE_TAILS
from pabench.problem.problem import FEATURES
from pabench.problem.tensors import build_tensors
from pabench.strategies import (
    GROUP_SIZES,
    HEAD_DIMS,
    PAGE_SIZES,
    TILE_TOKENS,
    append_cases,
    cases,
    ending_full,
    high_page_cases,
    long_batches,
    long_prefill_batches,
    prefill_batches,
    speculative_batches,
)
from pabench.subjects.backends.rawkernel import RawKernelBackend
from pabench.subjects.backends.validate import check_append, check_attention

T = TypeVar("T")
FEW = settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def drawn(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    found: list[T] = []

    @seed(1)
    @settings(FEW, max_examples=count, phases=(Phase.generate,))
    @given(strategy)
    def collect(value: T) -> None:
        found.append(value)

    collect()
    return found


@FEW
@given(cases())
def test_strategies_cases_are_valid_and_buildable_property(case: Case) -> None:
    assert case_from_dict(case.to_dict()) == case
    tensors = build_tensors(case)
    check_attention("any", RawKernelBackend.capabilities, tensors)
    tensors.layout.validate(case.batch.kv_lens)
    assert not np.isnan(tensors.q.astype(np.float32)).any()


@settings(FEW, max_examples=10)
@given(high_page_cases())
def test_strategies_high_pages_are_high_and_buildable_property(case: Case) -> None:
    tensors = build_tensors(case)
    check_attention("any", RawKernelBackend.capabilities, tensors)
    used = np.concatenate([tensors.layout.pages(i, n) for i, n in enumerate(case.batch.kv_lens)])
    assert used.max() >= HIGH_PAGE_BASE or used.size == 1


@FEW
@given(append_cases())
def test_strategies_append_cases_are_valid_and_buildable_property(case: AppendCase) -> None:
    assert append_case_from_dict(case.to_dict()) == case
    pool, keys, values, slots = build_append(case)
    assert check_append(pool, keys, values, slots, case.problem.dtype) == case.problem.page_size


@FEW
@given(cases(max_seqs=2, max_len=50, min_len=3, dtypes=["float16"], kv_layouts=["HND"], interleaved=[True]))
def test_strategies_cases_keep_to_their_arguments_property(case: Case) -> None:
    assert case.batch.num_seqs <= 2
    assert all(3 <= n <= 50 for n in case.batch.kv_lens)
    assert (case.problem.dtype, case.kv_layout, case.interleaved) == ("float16", "HND", True)


@FEW
@given(st.sampled_from(PAGE_SIZES).flatmap(long_batches))
def test_strategies_long_batches_hold_one_long_sequence_property(batch: Any) -> None:
    lengths = sorted(batch.kv_lens, reverse=True)
    assert 512 < lengths[0] <= 3000
    assert all(n <= 200 for n in lengths[1:])


@FEW
@given(st.sampled_from(PAGE_SIZES).flatmap(long_prefill_batches))
def test_strategies_long_prefill_batches_hold_one_long_prompt_property(batch: Any) -> None:
    longest = max(zip(batch.query_lens, batch.kv_lens, strict=True))
    assert 9 <= longest[0] <= 140
    assert longest[0] <= longest[1] <= 500
    assert longest[1] in (longest[0], *range(130, 501))


def test_strategies_cases_reach_every_choice() -> None:
    found = drawn(cases(), 400)
    for field, wanted in (
        ("family", FAMILIES),
        ("poison", POISONS),
        ("placement", PLACEMENTS),
        ("tail", TABLE_TAILS),
        ("kv_layout", ("NHD", "HND")),
        ("interleaved", (False, True)),
    ):
        assert {getattr(case, field) for case in found} == set(wanted)
    problems = [case.problem for case in found]
    assert {p.dtype for p in problems} == set(DTYPES)
    assert {p.head_dim for p in problems} == set(HEAD_DIMS)
    assert {p.page_size for p in problems} == set(PAGE_SIZES)
    assert {p.group_size for p in problems} >= set(GROUP_SIZES)
    assert {p.sm_scale is None for p in problems} == {True, False}
    assert {case.batch.num_seqs for case in found} == {1, 2, 3, 4, 5}


def test_strategies_lengths_hit_the_edges() -> None:
    """Shares that a suite of 60 cases a check can count on; uniform lengths would give a tenth of them."""
    found = drawn(cases(), 400)
    lengths = [(n, case.problem.page_size) for case in found for n in case.batch.kv_lens]
    near: Counter[str] = Counter()
    for n, page_size in lengths:
        near["empty"] += n == 0
        near["one"] += n == 1
        for name, size in (("page", page_size), ("tile", TILE_TOKENS)):
            for d in (-1, 0, 1):
                near[f"{name}{d:+d}"] += size > 2 and n > 1 and (n - d) % size == 0
    shares = {name: count / len(lengths) for name, count in near.items()}
    assert shares["empty"] > 0.01
    assert shares["one"] > 0.01
    assert all(shares[f"{name}{d:+d}"] > 0.06 for name in ("page", "tile") for d in (-1, 0, 1)), shares
    longer = [case for case in found if max(case.batch.kv_lens) > case.problem.page_size]
    assert len(longer) > 0.7 * len(found)


@pytest.mark.parametrize(
    ("fails", "lengths"),
    [
        (lambda case: max(case.batch.kv_lens) >= 33, (33,)),
        (lambda case: case.batch.num_seqs >= 3 and sum(case.batch.kv_lens) > 9, None),
        (lambda case: case.problem.page_size > 4 and max(case.batch.kv_lens) > case.problem.page_size, (6,)),
    ],
)
def test_strategies_shrink_to_few_short_sequences(
    fails: Callable[[Case], bool], lengths: tuple[int, ...] | None
) -> None:
    smallest = find(cases(), fails, settings=settings(FEW, max_examples=400))
    if lengths is not None:
        assert smallest.batch.kv_lens == lengths
    assert sum(smallest.batch.kv_lens) <= 33
    assert smallest.problem.num_qo_heads == 1
    assert (smallest.seed, smallest.spare_pages, smallest.interleaved) == (0, 0, False)


def test_strategies_features_reach_every_choice_and_stay_out_unless_asked() -> None:
    assert not any(case.problem.features for case in drawn(cases(), 40))
    found = drawn(cases(features=FEATURES), 200)
    plain = sum(not case.problem.features for case in found)
    assert 0.15 < plain / len(found) < 0.85  # what is drawn depends on what has been imported before
    for feature in FEATURES:
        assert sum(feature in case.problem.features for case in found) > 0.05 * len(found), feature
    for case in found:
        assert case_from_dict(case.to_dict()) == case
    # so many that the shares below hold whatever constants Hypothesis finds in the modules imported so far
    required = drawn(cases(required=["window"], features=["sinks"]), 400)
    assert all({"window"} <= case.problem.features <= {"window", "sinks"} for case in required)
    windows = [(case.problem.window or 0, case) for case in required]
    assert sum(w == 1 for w, _ in windows) > 10
    assert sum(w > max(case.batch.kv_lens) for w, case in windows) > 10
    assert sum(min(w % TILE_TOKENS, -w % TILE_TOKENS) <= 1 < w for w, _ in windows) > 10
    pages = [(w, case.problem.page_size) for w, case in windows if case.problem.page_size > 3]
    assert sum(min(w % size, -w % size) <= 1 < w for w, size in pages) > 10
    crossed = [w for w, case in windows if 0 < w < max(case.batch.kv_lens)]
    assert len(crossed) > 0.3 * len(windows)


@FEW
@given(st.sampled_from(PAGE_SIZES).flatmap(prefill_batches))
def test_strategies_prefill_batches_have_several_rows_property(batch: Any) -> None:
    assert not batch.is_decode
    assert max(batch.query_lens) <= 40
    assert max(batch.kv_lens) <= 100


def test_strategies_prefill_batches_reach_their_edges() -> None:
    batches = drawn(st.sampled_from(PAGE_SIZES).flatmap(prefill_batches), 200)
    pairs = [pair for b in batches for pair in zip(b.query_lens, b.kv_lens, strict=True)]
    found = Counter(
        {
            "more rows than keys": sum(q > kv > 0 for q, kv in pairs),
            "a whole prompt": sum(q == kv > 1 for q, kv in pairs),
            "no row": sum(q == 0 for q, _ in pairs),
            "a chunk": sum(1 < q < kv for q, kv in pairs),
            "no key": sum(kv == 0 < q for q, kv in pairs),
        }
    )
    assert min(found.values()) >= 5, found


def test_strategies_speculative_batches_are_ragged_and_short() -> None:
    batches = drawn(speculative_batches(16), 200)
    assert all(batch.is_speculative and batch.num_query_tokens for batch in batches)
    pairs = [pair for batch in batches for pair in zip(batch.kv_lens, batch.query_lens, strict=True)]
    assert {queries for _, queries in pairs} == set(range(9))
    assert sum(0 < kv < queries for kv, queries in pairs) >= 5
    assert sum(kv > 64 and queries > 1 for kv, queries in pairs) >= 20


@FEW
@given(
    st.sampled_from([1, 7, 16]).flatmap(lambda p: st.tuples(st.just(p), ending_full(prefill_batches(p), p)))
)
def test_strategies_batches_that_end_full_property(drawn: tuple[int, Batch]) -> None:
    page_size, batch = drawn
    assert batch.kv_lens[-1] >= max(1, *batch.kv_lens)
    assert batch.kv_lens[-1] % page_size == 0
    assert len(batch.query_lens) == len(batch.kv_lens)
