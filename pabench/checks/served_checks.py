# SPDX-License-Identifier: Apache-2.0
"""Checks of calls as servers make them: planned at dummy lengths, and with rows of padding."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from pabench.checks.attention_checks import find_difference, judge_output
from pabench.checks.outcome import Outcome, failed
from pabench.checks.plan_checks import rewrite
from pabench.checks.watched import inputs_of, watched
from pabench.device.base import Device
from pabench.device.rooms import PLAIN, in_rooms, make_rooms
from pabench.judge.gather import to_float64
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.dtypes import Array, encode
from pabench.problem.tensors import Tensors, build_tensors
from pabench.subjects.backends.base import ZEROED_ROWS, AttentionOutput, Backend, attend
from pabench.subjects.backends.graph import graph_of

PADDINGS = (1, 7, 40)
"""Rows behind the real ones: a graph is captured for a few sizes of batches."""


def check_dummy_lengths(case: Case, backend: Backend, device: Device) -> Outcome:
    """A plan made at lengths of 0 and 1 is right at any that its block table has room for, replayed too.

    Planned is also for sequences that are not there later: their lengths become 0 and their pages -1.
    """
    real = build_tensors(case)
    planned = dummies(real)
    with in_rooms(device, make_rooms(device, PLAIN)) as rooms:
        plan = backend.plan(planned)
        backend.run(plan)
        replay = graph_of(backend, plan) if device.name == "cuda" else None
        rewrite(planned, real, rooms)
        backend.run(plan)
        eager = backend.fetch(plan)
        outcome = judge_output(real, eager, backend)
        if not outcome.passed:
            return replace(outcome, text=f"planned at lengths of 0 and 1: {outcome.text}")
        (replay or partial(backend.run, plan))()
        device.synchronize()  # a graph has a stream of its own
        if changed := find_difference(case, backend.fetch(plan), eager):
            return failed(f"planned at lengths of 0 and 1, then replayed, it changes {changed}")
    return outcome


def dummies(real: Tensors) -> Tensors:
    """Return what a server captures: arrays of the same shapes, lengths of 0 and 1, other queries."""
    rng = np.random.default_rng(np.random.SeedSequence(real.case.seed, spawn_key=(7,)))
    known = real.layout.block_table.copy()
    # entries of sequences that are empty later are no pages, but are pages while it is planned
    pages = rng.integers(0, real.layout.num_pages, known.shape) if real.layout.num_pages else known
    lens = rng.integers(0, 2, len(real.kv_lens)) if pages.size and real.layout.num_pages else 0 * real.kv_lens
    batch = Batch(kv_lens=tuple(int(n) for n in lens), q_lens=real.case.batch.query_lens)
    return replace(
        real,
        case=replace(real.case, batch=batch, shared_prefix=()),
        q=np.zeros_like(real.q),
        layout=replace(real.layout, block_table=pages.astype(known.dtype)),
        kv_lens=np.asarray(lens, np.int32),
    )


def check_padded_rows(case: Case, backend: Backend, device: Device) -> Outcome:
    """Query rows behind those of all sequences, full of NaN, change nothing for the real ones."""
    real = build_tensors(case)
    several = {"speculative", "prefill"} & backend.capabilities.operations
    own = case.batch.is_decode and (case.seed % 2 == 1 or not several)
    padded = with_padding(real, PADDINGS[case.seed % len(PADDINGS)], own=own)
    given, stray = watched(device, inputs_of(padded), lambda: attend(backend, padded))
    if stray:
        return failed(stray)
    count, rows = real.q.shape[0], padded.q.shape[0]
    for name, array in (("out", given.out), ("lse", given.lse)):
        shape = getattr(array, "shape", None)
        if array is not None and (not shape or shape[0] != rows):
            return failed(f"{name} has shape {shape}, must have {rows} rows, {rows - count} of them padding")
    kept = AttentionOutput(out=given.out[:count], lse=None if given.lse is None else given.lse[:count])
    outcome = judge_output(real, kept, backend)
    if not outcome.passed:
        return replace(outcome, text=f"with {rows - count} rows of padding: {outcome.text}")
    if ZEROED_ROWS in backend.capabilities.operations:
        for row in range(count, rows):
            if np.any(to_float64(given.out[row], case.problem.storage)):
                return failed(f"row {row}, which is padding, must have output 0, as declared")
            # with a sink, that one may stand there
            if given.lse is not None and case.problem.sinks is None and not np.isneginf(given.lse[row]).all():
                return failed(f"row {row}, which is padding, must have LSE -inf, as declared")
    return outcome


def with_padding(real: Tensors, count: int, *, own: bool) -> Tensors:
    """Return the same call with ``count`` sequences of length 0 and rows more; their pages are -1.

    Args:
        real: the call without them.
        count: how many of each.
        own: whether each of the rows belongs to one of the sequences, as in plain decode, or to none.
    """
    none, table = (0,) * count, real.layout.block_table
    rows = None if own else (*real.case.batch.query_lens, *none)
    batch = Batch(kv_lens=(*real.case.batch.kv_lens, *none), q_lens=rows)
    noise = encode(np.full((count, *real.q.shape[1:]), np.nan), real.case.problem.storage)
    more: Array = np.full((count, table.shape[1]), -1, table.dtype)
    return replace(
        real,
        case=replace(real.case, batch=batch),
        q=np.concatenate([real.q, noise]),
        layout=replace(real.layout, block_table=np.concatenate([table, more])),
        kv_lens=np.concatenate([real.kv_lens, np.zeros(count, np.int32)]),
        qo_indptr=batch.qo_indptr,
    )
