# SPDX-License-Identifier: Apache-2.0
"""merge_states.cu and what judges it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from pabench.checks.case_files import kind_of
from pabench.checks.merge_checks import check_merge, check_merge_empty
from pabench.checks.smaller import smaller_cases
from pabench.device.checked import CheckedDevice
from pabench.errors import InvalidCase
from pabench.judge.merge import merge_truth
from pabench.kernels.merge_states import plan_merge
from pabench.problem.dtypes import FLOAT32, Array
from pabench.problem.merge import MergeCase, build_merge, merge_case_from_dict
from pabench.strategies import merge_cases
from pabench.subjects.backends.base import AttentionOutput
from pabench.subjects.backends.rawkernel import RawKernelBackend
from tests.support.probe import DEVICE

BACKEND = RawKernelBackend(DEVICE)
CASE = MergeCase(num_states=3, num_rows=4, num_heads=2, head_dim=16)


class Torch:
    """A merge of another make, with a place for faults."""

    name, capabilities, profile = "torch", BACKEND.capabilities, BACKEND.profile

    def merge_states(self, outs: Array, lses: Array, dtype: str) -> AttentionOutput:
        """In float32, by softmax and logsumexp."""
        given, logits = torch.from_numpy(outs), torch.from_numpy(lses)
        weights = torch.softmax(logits, 0)[..., None]
        weights = torch.where(torch.isneginf(logits)[..., None], 0.0, weights)
        parts = torch.where(weights == 0, 0.0, given.float()) * weights
        return AttentionOutput(
            out=parts.sum(0).to(given.dtype).numpy(), lse=torch.logsumexp(logits, 0).numpy()
        )


@settings(max_examples=40, deadline=None)
@given(case=merge_cases(dtypes=["float32", "float16"], head_dims=[16]))
def test_kernels_merge_bound_admits_another_make_property(case: MergeCase) -> None:
    outcome = check_merge(case, Torch(), DEVICE)  # type: ignore[arg-type]
    assert outcome.passed, outcome.text
    assert check_merge_empty(case, Torch(), DEVICE).passed  # type: ignore[arg-type]
    assert merge_case_from_dict(case.to_dict()) == case


def test_kernels_merge_truth_of_two_states() -> None:
    """Scores [0] and [ln 3] with outputs 0 and 1: 3/4, and ln 4."""
    outs = np.array([0.0, 1.0], np.float32).reshape(2, 1, 1, 1)
    lses = np.array([0.0, np.log(3.0)], np.float32).reshape(2, 1, 1)
    right = merge_truth(outs, lses, FLOAT32)
    assert right.out.item() == pytest.approx(0.75, abs=1e-7)
    assert right.lse.item() == pytest.approx(np.log(4.0), abs=1e-7)
    assert 0.0 < right.out_bound.item() < 1e-4


def test_kernels_merge_takes_rows_from_anywhere() -> None:
    """Rows of a state in any order, and rows that a state has not."""
    outs, lses = build_merge(replace(CASE, num_states=2))
    order = np.array([[2, 0, -1, 3], [0, 1, 2, 3]], np.int32)
    states = [(outs[0], lses[0]), (outs[1], lses[1])]
    plan = plan_merge(DEVICE, FLOAT32, states=states, rows=order, num_rows=4)
    plan.module.launch(plan.launches[0])
    packed = outs[:1, [2, 0, 0, 3]], lses[:1, [2, 0, 0, 3]].copy()
    packed[1][0, 2] = -np.inf
    plain = BACKEND.merge_states(
        np.concatenate([packed[0], outs[1:]]), np.concatenate([packed[1], lses[1:]]), "float32"
    )
    assert plan.out.tobytes() == plain.out.tobytes()
    assert plan.lse.tobytes() == np.asarray(plain.lse).tobytes()
    assert plain.out[2].tobytes() == outs[1, 2].tobytes()


def test_kernels_merge_nan_among_lses_is_not_lost() -> None:
    outs, lses = build_merge(CASE)
    for value in (np.nan, np.inf):
        lses[1, 2, 1] = value
        got = BACKEND.merge_states(outs, lses, "float32")
        assert np.isnan(got.out[2, 1]).all()
        assert np.isnan(np.asarray(got.lse)[2, 1])
        assert np.isfinite(got.out[[0, 1, 3]]).all()


def test_kernels_merge_is_clean_and_reads_each_state_once() -> None:
    device = CheckedDevice(count=True)
    case = replace(CASE, head_dim=128, dtype="float16")
    outs, lses = build_merge(case)
    RawKernelBackend(device).merge_states(outs, lses, "float16")
    assert device.findings == []
    totals = device.counters["merge_states"].totals()
    rows = case.num_rows * case.num_heads
    assert totals.store_bytes == rows * (128 * 2 + 4)
    # whole rows side by side: every sector that is asked for is used
    assert totals.store_sectors == rows * 128 * 2 // 32 + rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outs": np.zeros((0, 4, 2, 16), np.float32)}, "a state at least"),
        ({"outs": np.zeros((3, 4, 32), np.float32)}, "must have 4 axes"),
        ({"outs": np.zeros((3, 4, 2, 16))}, "must have 4 axes, .* stored as float32"),
        ({"lses": np.zeros((3, 4), np.float32)}, r"must be float32 of shape \(3, 4, 2\)"),
        ({"lses": np.zeros((3, 4, 2))}, "lses = 'float64"),
    ],
)
def test_kernels_merge_refuses_what_does_not_fit(change: dict[str, Array], words: str) -> None:
    outs, lses = build_merge(CASE)
    with pytest.raises(InvalidCase, match=words):
        BACKEND.merge_states(**{"outs": outs, "lses": lses, **change}, dtype="float32")


def test_kernels_merge_plan_refuses_states_that_differ() -> None:
    outs, lses = build_merge(CASE)
    rows = np.zeros((1, 4), np.int32)
    for states, words in (([], "must be at least one"), ([(outs[0], lses[0, :2])], "an LSE for each")):
        with pytest.raises(InvalidCase, match=words):
            plan_merge(DEVICE, FLOAT32, states=states, rows=rows, num_rows=4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_states": 0}, "num_states = 0: must be at least 1"),
        ({"spread": "wide"}, "spread = 'wide': must be one of"),
        ({"empty": 3}, "empty = 3: must be one of"),
        ({"dtype": "e4m3"}, "unknown dtype"),
        ({"seed": -1}, "seed"),
        ({"other": 1}, "must have the fields"),
        ({"schema": 9}, "schema"),
    ],
)
def test_kernels_merge_case_is_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words):
        merge_case_from_dict({**CASE.to_dict(), **change})


def test_kernels_merge_smaller_cases() -> None:
    assert kind_of(CASE) == "merge"
    found = list(smaller_cases(replace(CASE, empty="some", poison="nan")))
    assert {case.num_states for case in found if isinstance(case, MergeCase)} >= {1, 2}
    assert any(isinstance(case, MergeCase) and case.empty == "none" for case in found)
