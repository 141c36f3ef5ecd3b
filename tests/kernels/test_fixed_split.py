# SPDX-License-Identifier: Apache-2.0
"""Sequences cut at fixed places: keys without weight change no bit, also where they begin another piece."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pabench.checks.relation_checks import FIXED_SPLIT, RELATIONS
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.problem import Problem
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from pabench.subjects.backends.rawkernel_mma_fixed import SPLIT_TOKENS, RawKernelMmaFixedBackend
from tests.support.probe import DEVICE

PROBLEM = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=64, page_size=16, dtype="float16")
SINKS = (0.0, -2.25, 10.0, 40.0, -10000.0, 7.5)
SEEDS = range(4)


def lacks(backend: RawKernelMmaBackend, problem: Problem, kv_lens: tuple[int, ...]) -> list[str]:
    """What the badge lacks, one entry for each of ``SEEDS`` with which bits change."""
    batch, found = Batch(kv_lens=kv_lens, q_lens=(1,) * len(kv_lens)), []
    for seed in SEEDS:
        case = Case(problem=problem, batch=batch, family="normal", seed=seed)
        outcome = RELATIONS["weightless-keys"](case, backend, DEVICE)
        assert outcome.passed, outcome.text
        found += [why for badge, why in outcome.missing_badges if badge == FIXED_SPLIT]
    return found


@pytest.mark.parametrize("sinks", [None, SINKS], ids=["plain", "sinks"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_kernels_fixed_split_adds_pieces_without_changing_a_bit(
    dtype: str, sinks: tuple[float, ...] | None
) -> None:
    problem = replace(PROBLEM, dtype=dtype, sinks=sinks)
    lengths = (5, 64, 95, SPLIT_TOKENS - 1, SPLIT_TOKENS, SPLIT_TOKENS + 1)
    assert lacks(RawKernelMmaFixedBackend(DEVICE), problem, lengths) == []


def test_kernels_fixed_split_is_what_shares_of_a_grid_are_not() -> None:
    assert lacks(RawKernelMmaBackend(DEVICE), PROBLEM, (200, 700, 90))
