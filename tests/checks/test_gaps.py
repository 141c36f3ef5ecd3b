# SPDX-License-Identifier: Apache-2.0
"""What lies between the rows of a cache belongs to somebody else: read by nobody, written by nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pabench.checks.append_checks import check_append
from pabench.checks.attention_checks import check_decode
from pabench.checks.copy_checks import check_copy
from pabench.checks.gather_checks import check_gather
from pabench.device.base import KernelSource
from pabench.device.checked import CheckedDevice
from pabench.device.emulated import EmulatedDevice, EmulatedModule
from pabench.problem import Batch, Case, Problem
from pabench.problem.append import AppendCase
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.subjects.backends.rawkernel import RawKernelBackend
from tests.support.probe import DEVICE

PROBLEM = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=4, dtype="float16")
GAPS: dict[str, Any] = {"row_gaps": (3, 8), "starts": (5, 1), "page_gaps": (0, 2)}
CASE = Case(problem=PROBLEM, batch=Batch(kv_lens=(9, 0, 4)), poison="nan", **GAPS)
APPEND = AppendCase(problem=PROBLEM, num_pages=5, slots=(3, 11, 0), **GAPS)


class Careless(RawKernelBackend):
    """Right, but for one element of a gap."""

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        after = super().append(pool, dtype, keys, values, slot_mapping)
        after[GAPS["starts"][0] + PROBLEM.head_dim] += 1
        return after

    def copy_pages(self, pools: Sequence[KvPool], copies: Array, *, count: int) -> list[Array]:
        after = super().copy_pages(pools, copies, count=count)
        after[-1][-1] += 1
        return after


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("change", [{}, {"interleaved": True, "starts": (5, 0)}], ids=["apart", "one pool"])
def test_gaps_are_left_alone_by_our_kernels(layout: str, change: dict[str, Any]) -> None:
    device = CheckedDevice()
    backend = RawKernelBackend(device)
    attention, append = (replace(case, kv_layout=layout, **change) for case in (CASE, APPEND))
    assert isinstance(attention, Case)
    assert isinstance(append, AppendCase)
    for outcome in (
        check_decode(attention, backend, device),
        check_gather(attention, backend, device),
        check_append(append, backend, device),
        check_copy(append, backend, device),
    ):
        assert outcome.passed, outcome.text
        assert not outcome.findings


class Recording(EmulatedDevice):
    """Keeps the macros that kernels are compiled with."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []

    def load(self, source: KernelSource) -> EmulatedModule:
        self.widths.append(int(source.defines["PAB_VEC"]))
        return super().load(source)


@pytest.mark.parametrize(
    ("gaps", "widths"), [({}, {8}), ({"page_gaps": (2, 2)}, {2}), ({"row_gaps": (1, 1)}, {1})]
)
def test_gaps_bound_the_width_of_loads(gaps: dict[str, Any], widths: set[int]) -> None:
    # a GPU faults where a wide load begins between two of its like
    device = Recording()
    case = Case(problem=PROBLEM, batch=Batch(kv_lens=(9, 4)), **gaps)
    assert check_gather(case, RawKernelBackend(device), device).passed
    assert check_decode(case, RawKernelBackend(device), device).passed
    assert set(device.widths) == widths


def test_gaps_that_an_append_or_a_copy_writes_are_seen() -> None:
    for outcome, at in (
        (check_append(APPEND, Careless(DEVICE), DEVICE), 21),
        (check_copy(APPEND, Careless(DEVICE), DEVICE), None),
    ):
        assert not outcome.passed
        where = "[" if at is None else f"[{at}]"
        assert f"element {where}" in outcome.text
        assert "lies in a gap, which belongs to no token, and was written" in outcome.text
