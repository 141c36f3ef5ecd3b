# SPDX-License-Identifier: Apache-2.0
"""One plan for many layers: launches of another layer, and what is no layer of the same batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pabench.checks.layer_checks import check_layers
from pabench.errors import InvalidCase, Unsupported
from pabench.kernels.layers import layer_of
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.subjects.backends.base import layered
from pabench.subjects.registry import load_backend
from tests.support.probe import DEVICE

PROBLEM = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=8, dtype="bfloat16")
MIXED = Case(problem=PROBLEM, batch=Batch(kv_lens=(130, 0, 70), q_lens=(1, 1, 20)))


@pytest.mark.parametrize("name", ["rawkernel", "rawkernel-mma", "rawkernel-mma-fixed"])
def test_layers_of_a_mixed_batch_are_right_on_one_plan(name: str) -> None:
    outcome = check_layers(MIXED, load_backend(name, DEVICE), DEVICE)
    assert outcome.passed, outcome.text


def test_layers_of_one_plan_share_what_is_planned_and_nothing_else() -> None:
    backend: Any = load_backend("rawkernel-mma", DEVICE)
    first, other = backend.plan(build_tensors(MIXED)), build_tensors(replace(MIXED, seed=1))
    second = backend.layer(first, other.q, other.pool)
    for one, two in zip(first, second, strict=True):
        planned, attention = one.launches
        assert two.launches[0] is planned
        differing = [
            index
            for index, (mine, yours) in enumerate(zip(attention.args, two.launches[1].args, strict=True))
            if mine is not yours
        ]
        assert differing == [0, 1, 2, 6, 7]  # q, k, v, out, lse
    assert second[0].out is second[1].out


def _changed(**changes: Any) -> Any:
    problem = replace(PROBLEM, **changes)
    return build_tensors(replace(MIXED, problem=problem))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (_changed(num_qo_heads=8), r"shape of q .*: must be \(22, 4, 16\), as in the layer planned first"),
        (_changed(page_size=16), r"shape of keys .*: must be .*, as in the layer planned first"),
        (_changed(kv_dtype="e4m3"), r"dtype of keys .*: must be uint16, as in the layer planned first"),
        (build_tensors(replace(MIXED, interleaved=True)), r"strides of keys .*: must be .*"),
    ],
)
def test_layers_of_other_forms_are_refused(other: Any, words: str) -> None:
    backend: Any = load_backend("rawkernel-mma", DEVICE)
    plan = backend.plan(build_tensors(MIXED))
    with pytest.raises(InvalidCase, match=words):
        backend.layer(plan, other.q, other.pool)


def test_layers_at_odd_addresses_are_refused() -> None:
    backend: Any = load_backend("rawkernel", DEVICE)
    tensors = build_tensors(MIXED)
    plan = backend.plan(tensors)
    room = np.empty(tensors.q.nbytes + 16, np.uint8)
    start = (-room.ctypes.data) % 16 + 2
    odd = room[start : start + tensors.q.nbytes].view(tensors.q.dtype).reshape(tensors.q.shape)
    odd[...] = tensors.q
    # uploads are aligned, so the launches are asked
    with pytest.raises(InvalidCase, match=r"address of q .*: must be a multiple of 16 bytes"):
        layer_of(DEVICE, plan, odd, tensors.pool)


def test_layers_need_a_backend_that_declares_them() -> None:
    with pytest.raises(Unsupported, match="no layers"):
        layered(load_backend("rawkernel-cascade", DEVICE))
