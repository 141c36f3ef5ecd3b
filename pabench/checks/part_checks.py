# SPDX-License-Identifier: Apache-2.0
"""Attention and merge fit together: parts of the keys, each attended to, are merged to the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pabench.checks.attention_checks import judge_output
from pabench.checks.outcome import Outcome
from pabench.checks.relations import laid
from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.judge.merge import merge_truth
from pabench.judge.reference import Truth, truth
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.tensors import SequenceRows, Tensors, build_tensors, sequences_of
from pabench.subjects.backends.base import Backend, attend, offered

MOST_PARTS = 4


def check_parts(case: Case, backend: Backend, device: Device) -> Outcome:
    """States over any cut of a sequence's keys merge to the state over all of them."""
    merge = offered(backend, "merge")
    given = build_tensors(case)
    whole = truth(given, backend.profile)
    parts = key_parts(given)
    truths, outputs = [], []
    for number, part in enumerate(parts):
        truths.append(truth(part, backend.profile))
        outputs.append(attend(backend, part))
        outcome = judge_output(part, outputs[-1], backend, reference=truths[-1])
        if not outcome.passed:
            return replace(outcome, text=f"part {number} of {len(parts)} of the keys: {outcome.text}")
    lses = [output.lse for output in outputs if output.lse is not None]
    if len(lses) < len(outputs):
        raise Unsupported("states without their LSE cannot be merged")
    outs, dtype = np.stack([output.out for output in outputs]), case.problem.storage
    merged = merge(outs, np.stack(lses), case.problem.dtype)
    expected = within(
        whole, truths, merge_truth(outs, np.stack(lses), dtype, lse_unit=backend.profile.lse_unit)
    )
    outcome = judge_output(given, merged, backend, reference=expected)
    if not outcome.passed:
        return replace(outcome, text=f"merged from {len(parts)} parts of the keys: {outcome.text}")
    return outcome


def key_parts(given: Tensors) -> list[Tensors]:
    """Return the problem cut along the keys: 2 to 4 parts of every sequence, none empty where keys suffice.

    That a part without keys gives the neutral state, and that a merge leaves it out, are other checks.
    """
    rng = np.random.default_rng(np.random.SeedSequence(given.case.seed, spawn_key=(3,)))
    sequences, count = sequences_of(given), int(rng.integers(2, MOST_PARTS + 1))
    cuts = [cut_places(rng, len(rows.keys), count - 1) for rows in sequences]
    bounds = [[0, *cut, len(rows.keys)] for cut, rows in zip(cuts, sequences, strict=True)]

    def part(rows: SequenceRows, ends: list[int], number: int) -> SequenceRows:
        kept = slice(ends[number], ends[number + 1])
        return replace(rows, keys=rows.keys[kept], values=rows.values[kept])

    return [
        laid(given, [part(rows, ends, number) for rows, ends in zip(sequences, bounds, strict=True)])
        for number in range(count)
    ]


def cut_places(rng: np.random.Generator, tokens: int, count: int) -> list[int]:
    """Return ``count`` places in ascending order, each after another token where there are enough."""
    inside = np.arange(1, tokens)
    found = rng.choice(inside, count, replace=False) if tokens > count else rng.integers(0, tokens + 1, count)
    return [int(place) for place in np.sort(found)]


def within(whole: Truth, parts: list[Truth], merged: Truth) -> Truth:
    """Return ``whole`` with the bound that right states and a right merge keep to.

    The merge is ``merged.out_bound`` off the merge of the states that it got.  That one is off ``whole``,
    since output i is off by ``T_i`` at most and each LSE by ``L``, which moves no weight w by more than a
    factor of exp(2 L): ``sum_i w_i e^{2L} T_i + (e^{2L} - 1) sum_i w_i |o_i - o|``; its LSE is off by ``L``.
    """
    lses, outs = np.stack([part.lse for part in parts]), np.stack([part.out for part in parts])
    live = np.isfinite(lses)
    weights = np.exp(np.where(live, lses - np.where(np.isfinite(whole.lse), whole.lse, 0.0), -np.inf))
    drift = np.where(live, [part.lse_bound for part in parts], 0.0).max(axis=0)
    grown = np.exp(2.0 * drift)[..., None]
    share: Array = weights[..., None]
    own = (share * [part.out_bound for part in parts]).sum(axis=0)
    moved = (share * np.abs(outs - whole.out)).sum(axis=0)
    return replace(
        whole,
        out_bound=merged.out_bound + grown * own + (grown - 1.0) * moved,
        lse_bound=merged.lse_bound + drift,
    )
