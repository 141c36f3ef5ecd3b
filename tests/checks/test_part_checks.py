# SPDX-License-Identifier: Apache-2.0
"""States of parts of the keys merge to the whole: seen where they do not, and never where they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from pabench.checks.part_checks import check_parts, key_parts, within
from pabench.errors import Unsupported
from pabench.judge.reference import Truth, truth
from pabench.problem import Batch, Case, NumericsProfile, Problem, build_tensors
from pabench.problem.dtypes import Array
from pabench.problem.tensors import sequences_of
from pabench.strategies import cases
from pabench.subjects.backends.base import AttentionOutput
from pabench.subjects.backends.rawkernel import RawKernelBackend
from tests.support.probe import DEVICE

PROBLEM = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=3, dtype="float32")
CASE = Case(problem=PROBLEM, batch=Batch(kv_lens=(50, 0, 7)), poison="nan", seed=3)
Change = Callable[[Array, Array], tuple[Array, Array]]
FEW = settings(
    max_examples=25,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Merges(RawKernelBackend):
    """Our kernel, with another merge behind the same states."""

    change: Change

    def merge_states(self, outs: Array, lses: Array, dtype: str) -> AttentionOutput:
        some, others = map(np.ascontiguousarray, self.change(outs, lses))
        return super().merge_states(some, others, dtype)


class Silent(RawKernelBackend):
    """Says nothing of the LSE."""

    capabilities = replace(RawKernelBackend.capabilities, lse=False)

    def fetch(self, plan: Any) -> AttentionOutput:
        return replace(super().fetch(plan), lse=None)


def test_parts_of_the_right_kernel_merge_to_the_whole() -> None:
    outcome = check_parts(CASE, RawKernelBackend(DEVICE), DEVICE)
    assert outcome.passed
    assert outcome.max_ratio is not None
    assert 0.0 < outcome.max_ratio < 1.0


@pytest.mark.parametrize(
    "change",
    [
        lambda outs, lses: (outs[:-1], lses[:-1]),
        lambda outs, lses: (outs, lses * np.float32(np.log(2.0))),
        lambda outs, lses: (outs, np.where(np.isfinite(lses), np.float32(0.0), lses)),
        lambda outs, lses: (outs[::-1], lses),
    ],
    ids=["a state left out", "LSE to another base", "weights of one", "states mixed up"],
)
def test_parts_of_a_merge_that_means_something_else(change: Change) -> None:
    subject = Merges(DEVICE)
    subject.change = change
    outcome = check_parts(CASE, subject, DEVICE)
    assert not outcome.passed
    assert outcome.text.startswith("merged from ")


def test_parts_without_an_lse_are_unsupported() -> None:
    with pytest.raises(Unsupported, match="without their LSE"):
        check_parts(CASE, Silent(DEVICE), DEVICE)


@FEW
@given(cases(dtypes=["float16"], head_dims=[16], placements=["shuffled"], features=["soft-cap"]))
def test_parts_are_a_cut_of_the_keys_property(case: Case) -> None:
    whole = build_tensors(case)
    parts = key_parts(whole)
    assert 2 <= len(parts) <= 4
    for number, rows in enumerate(sequences_of(whole)):
        pieces = [sequences_of(part)[number] for part in parts]
        if len(rows.keys) >= len(parts):
            assert all(len(piece.keys) for piece in pieces)
        assert np.concatenate([piece.keys for piece in pieces]).tobytes() == rows.keys.tobytes()
        assert np.concatenate([piece.values for piece in pieces]).tobytes() == rows.values.tobytes()
        assert all(piece.queries.tobytes() == rows.queries.tobytes() for piece in pieces)


@FEW
@given(cases(dtypes=["float16"], head_dims=[16], placements=["shuffled"], families=["normal", "needle"]))
def test_parts_bound_covers_the_worst_right_states_property(case: Case) -> None:
    """States as far off as they may be, merged exactly, are within what is allowed of the whole."""
    tensors, profile = build_tensors(case), NumericsProfile()
    whole, states = truth(tensors, profile), [truth(part, profile) for part in key_parts(tensors)]
    rng = np.random.default_rng(case.seed)
    exact = Truth(
        out=whole.out,
        lse=whole.lse,
        out_bound=np.full_like(whole.out, 1e-12),
        lse_bound=np.full_like(whole.lse, 1e-12),
    )
    allowed = within(whole, states, exact)
    some = np.isfinite(whole.lse)
    for _ in range(4):
        outs = [state.out + rng.choice([-1, 1], state.out.shape) * state.out_bound for state in states]
        lses = np.stack([s.lse + rng.choice([-1, 1], s.lse.shape) * s.lse_bound for s in states])
        lse = np.logaddexp.reduce(lses, axis=0)
        weights = np.exp(np.where(np.isfinite(lses), lses - np.where(some, lse, 0.0), -np.inf))
        out = (weights[..., None] * outs).sum(axis=0)
        assert (np.abs(out - whole.out) <= allowed.out_bound).all()
        assert (np.abs(lse[some] - whole.lse[some]) <= allowed.lse_bound[some]).all()
