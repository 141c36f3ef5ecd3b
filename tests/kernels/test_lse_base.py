# SPDX-License-Identifier: Apache-2.0
"""LSEs in base 2, where that is declared: of decode, of a merge, and both together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pabench.errors import InvalidCase
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.profile import NumericsProfile
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from tests.support.kill_support import ask
from tests.support.probe import DEVICE

CASE = Case(
    problem=Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=8), batch=Batch(kv_lens=(40, 0, 3))
)


def base_2() -> RawKernelBackend:
    made = RawKernelBackend(DEVICE, lse_base="2")
    can = replace(
        made.capabilities, dtypes=frozenset({"float32"}), max_head_dim=16, features=frozenset({"sinks"})
    )
    object.__setattr__(made, "capabilities", can)
    return made


@pytest.mark.parametrize(
    "question",
    ["decode[long]", "decode[sinks]", "merge[huge]", "merge-empty", "merge-in-place", "parts"],
)
def test_lse_base_2_is_judged_as_declared(question: str) -> None:
    assert ask(question, base_2(), DEVICE).outcome is None


@pytest.mark.parametrize(
    ("returned", "declared", "words"),
    [
        ("2", "e", "a base-2 LSE in place of natural log"),
        ("e", "2", "a natural LSE in place of base 2"),
    ],
)
def test_lse_in_another_base_than_declared_is_named(returned: str, declared: str, words: str) -> None:
    tensors = build_tensors(CASE)
    output = attend(RawKernelBackend(DEVICE, lse_base=returned), tensors)
    told = RawKernelBackend(DEVICE, lse_base=declared).profile
    found = judge(tensors, output.out, output.lse, told)
    assert not found.passed
    assert words in found.text


def test_merge_in_another_base_than_declared_fails() -> None:
    """A kernel of natural logarithms beside a declaration of base 2."""
    backend = base_2()
    merge = RawKernelBackend(DEVICE).merge_states
    object.__setattr__(backend, "merge_states", merge)
    found = ask("merge[close]", backend, DEVICE).outcome
    assert found is not None
    assert "err/T" in found.text


def test_lse_base_is_one_of_two() -> None:
    with pytest.raises(InvalidCase, match="lse_base = '10': must be one of e, 2"):
        NumericsProfile(lse_base="10")
