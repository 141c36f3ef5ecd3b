# SPDX-License-Identifier: Apache-2.0
"""Shared beginnings: forks of a case, groups of a batch, private copies."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pabench.errors import InvalidCase
from pabench.judge.gather import gather_tokens
from pabench.judge.traffic import decode_traffic
from pabench.problem import Batch, Case, PageLayout, Problem, build_tensors, case_from_dict
from pabench.problem.prefix import PrefixGroup, prefix_groups, private_copies
from pabench.strategies import cases, prefix_batches

PROBLEM = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=8, page_size=4)
FORKED = Case(
    problem=PROBLEM,
    batch=Batch(kv_lens=(10, 9, 5)),
    shared_prefix=((1, 0, 2), (2, 1, 1)),
    poison="nan",
    tail="foreign",
)


def layout_of(*rows: list[int]) -> PageLayout:
    width = max(map(len, rows))
    table = np.array([row + [-1] * (width - len(row)) for row in rows], np.int32)
    return PageLayout(page_size=4, num_pages=100, block_table=table)


def groups(*rows: list[int], new: int = 1, causal: bool = True) -> list[tuple[tuple[int, ...], int]]:
    batch = Batch(kv_lens=tuple(4 * len(row) for row in rows), q_lens=(new,) * len(rows))
    return [(g.sequences, g.pages) for g in prefix_groups(layout_of(*rows), batch, causal=causal)]


def test_problem_prefix_groups_by_hand() -> None:
    assert groups([1, 2], [3, 4]) == []
    assert groups([1, 2, 5], [3, 4], [1, 2, 6]) == [((0, 2), 2)]
    # one page for all three saves 2, three pages for two save 3
    assert groups([1, 2, 3, 7], [1, 2, 3, 8], [1, 9]) == [((0, 1), 3)]
    # those who leave a longer prefix early share what they have with whoever else is left
    assert groups([1, 2, 3], [1, 2, 3], [1, 9], [1, 8]) == [((0, 1), 3), ((2, 3), 1)]
    assert groups([1], [1], [1, 2, 3], [1, 2, 3]) == [((0, 1), 1), ((2, 3), 3)]
    # two groups would save 3 as well: one has fewer rows to merge
    assert groups([1, 2], [1, 2], [1, 9], [1, 8]) == [((0, 1, 2, 3), 1)]
    # 1 leaves the branch of 2 and 3, and is left over for the sequence that leaves before
    assert groups([1, 8], [1, 2], [1, 2, 3, 4], [1, 2, 3, 4]) == [((0, 1), 1), ((2, 3), 4)]
    # two groups below one node
    assert groups([1, 2, 3], [1, 2, 3], [1, 5, 6], [1, 5, 6]) == [((0, 1), 3), ((2, 3), 3)]
    # a sequence that is the beginning of another
    assert groups([1, 2], [1, 2, 3]) == [((0, 1), 2)]
    assert groups([1], [1]) == [((0, 1), 1)]


def test_problem_prefix_leaves_out_what_a_row_does_not_see() -> None:
    # of 8 keys the first of 3 causal rows sees 6, so one page; with 6 new tokens it sees 3
    assert groups([1, 2], [1, 2], new=3) == [((0, 1), 1)]
    assert groups([1, 2], [1, 2], new=6) == []
    assert groups([1, 2], [1, 2], new=6, causal=False) == [((0, 1), 2)]
    assert groups([1, 2], [1, 2], new=0) == []
    # more rows than keys
    assert groups([1, 2], [1, 2], new=12) == []


def best_saving(rows: list[list[int]]) -> int:
    """Most pages saved over all ways to put sequences into groups, by trying them all."""
    if not rows:
        return 0
    first, rest = rows[0], rows[1:]
    found = best_saving(rest)
    for count in range(1, len(rest) + 1):
        for chosen in itertools.combinations(range(len(rest)), count):
            members = [first, *(rest[i] for i in chosen)]
            shared = len(
                list(itertools.takewhile(lambda pages: len(set(pages)) == 1, zip(*members, strict=False)))
            )
            others = [row for i, row in enumerate(rest) if i not in chosen]
            found = max(found, count * shared + best_saving(others))
    return found


@settings(max_examples=80, deadline=None)
@example(rows=[[0], [0], [0, 0], [0, 0], [0, 0]])
@example(rows=[[0], [0], [0, 0, 0], [0, 0, 0]])
@example(rows=[[2, 0], [2, 0, 2, 2], [2, 0, 2, 2], [1], [2, 2, 1]])
@example(rows=[[0, 1], [0, 2], [0, 2, 0, 1], [0, 2, 0, 1]])
@given(rows=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=5))
def test_problem_prefix_groups_save_the_most_property(rows: list[list[int]]) -> None:
    layout, batch = layout_of(*rows), Batch(kv_lens=tuple(4 * len(row) for row in rows))
    found = prefix_groups(layout, batch, causal=True)
    members = [i for group in found for i in group.sequences]
    assert len(members) == len(set(members))
    for group in found:
        assert len(group.sequences) > 1
        assert len({tuple(rows[i][: group.pages]) for i in group.sequences}) == 1
        assert all(len(rows[i]) >= group.pages > 0 for i in group.sequences)
    assert sum(group.saved for group in found) == best_saving(rows)


def test_problem_prefix_of_a_long_table_is_found_without_deep_recursion() -> None:
    row = list(range(5000))
    layout = PageLayout(page_size=1, num_pages=5000, block_table=np.array([row] * 3, np.int32))
    batch = Batch(kv_lens=(5000,) * 3)
    assert prefix_groups(layout, batch, causal=True) == (PrefixGroup(sequences=(0, 1, 2), pages=5000),)


def test_problem_prefix_of_turns_of_one_long_conversation_is_found_without_deep_recursion() -> None:
    # every sequence is the beginning of the next, so every length is a fork below the one before
    turns = 1100
    table = np.where(np.tri(turns, dtype=bool), np.arange(turns, dtype=np.int32), np.int32(-1))
    layout = PageLayout(page_size=1, num_pages=turns, block_table=table)
    batch = Batch(kv_lens=tuple(range(1, turns + 1)))
    assert sum(group.saved for group in prefix_groups(layout, batch, causal=True)) == best_of_turns(turns)


def best_of_turns(count: int) -> int:
    """Most pages saved for sequences of 1 to ``count`` pages, each the beginning of the next.

    A group of ``n`` takes the longest that are left and saves ``n - 1`` times the shortest of its own.
    """
    best = np.zeros(count + 1, np.int64)
    for left in range(2, count + 1):
        size = np.arange(2, left + 1)
        best[left] = ((size - 1) * (left - size + 1) + best[left - size]).max()
    return int(best[count])


# --- cases ------------------------------------------------------------------------------------------------


def test_problem_forks_share_pages_and_tokens() -> None:
    tensors = build_tensors(FORKED)
    table = tensors.layout.block_table
    assert table[1, :2].tolist() == table[0, :2].tolist()
    assert table[2, 0] == table[1, 0]
    used = [tensors.layout.pages(i, n).tolist() for i, n in enumerate(FORKED.batch.kv_lens)]
    assert len({page for pages in used for page in pages}) == tensors.layout.num_pages == 3 + 1 + 1
    np.testing.assert_array_equal(gather_tokens(tensors, 0, "k", 0, 8), gather_tokens(tensors, 1, "k", 0, 8))
    assert not np.isnan(gather_tokens(tensors, 2, "v", 0, 5)).any()
    traffic = decode_traffic(PROBLEM, FORKED.batch.kv_lens, layout=tensors.layout)
    assert traffic.tokens == 10 + 1 + 1


def test_problem_forks_leave_other_cases_alone() -> None:
    plain = replace(FORKED, shared_prefix=())
    assert "shared_prefix" not in plain.to_dict()
    assert case_from_dict(FORKED.to_dict()) == FORKED
    assert FORKED.id != plain.id
    # parents have the tokens that they have alone
    np.testing.assert_array_equal(
        gather_tokens(build_tensors(FORKED), 0, "k", 0, 10),
        gather_tokens(build_tensors(plain), 0, "k", 0, 10),
    )


def test_problem_forks_keep_what_a_longer_window_sees() -> None:
    """The last rows of a long sequence see none of the shared tokens, those of a short one all."""
    case = Case(
        problem=replace(PROBLEM, window=4),
        batch=Batch(kv_lens=(20, 8)),
        shared_prefix=((1, 0, 2),),
        poison="nan",
    )
    tensors = build_tensors(case)
    keys = gather_tokens(tensors, 0, "k", 0, 20)
    # sequence 1 sees tokens 4 to 7, sequence 0 tokens 16 to 19
    dead = np.isnan(keys).all((1, 2))
    assert np.flatnonzero(~dead).tolist() == [4, 5, 6, 7, 16, 17, 18, 19]


@pytest.mark.parametrize(
    ("forks", "words"),
    [
        (((0, 0, 1),), r"shared_prefix\[0\].sequence = 0: must be at least 1"),
        (((3, 0, 1),), r"sequence = 3: must be at most 2"),
        (((1, 1, 1),), r"parent = 1: must be at most 0"),
        (((1, 0, 3),), r"pages = 3: must be at most 2"),
        (((1, 0, 0),), r"pages = 0: must be at least 1"),
        (((2, 0, 1), (2, 1, 1)), "must not name a sequence twice"),
        (((1, 0),), r"must be \(sequence, parent, pages\)"),
        (3, "must be a list"),
        ((3,), "must be a list"),
    ],
)
def test_problem_forks_are_checked(forks: Any, words: str) -> None:
    with pytest.raises(InvalidCase, match=words):
        replace(FORKED, shared_prefix=forks)


@settings(max_examples=60, deadline=None)
@given(case=cases(batch=prefix_batches, sharing=True, head_dims=[16], placements=["shuffled", "reversed"]))
def test_problem_forks_are_drawn_and_private_copies_hold_the_same_property(case: Case) -> None:
    tensors = build_tensors(case)
    alone = private_copies(tensors)
    alone.layout.validate(case.batch.kv_lens)
    pages = alone.layout.to_csr(case.batch.kv_lens).indices
    assert len(set(pages.tolist())) == len(pages)
    for sequence, kv_len in enumerate(case.batch.kv_lens):
        for kind in "kv":
            np.testing.assert_array_equal(
                gather_tokens(tensors, sequence, kind, 0, kv_len),
                gather_tokens(alone, sequence, kind, 0, kv_len),
            )
    assert case_from_dict(case.to_dict()) == case
    found = prefix_groups(tensors.layout, case.batch, causal=case.problem.causal)
    shared = {child for child, _, _ in case.shared_prefix}
    assert all(shared & set(group.sequences) for group in found)
