# SPDX-License-Identifier: Apache-2.0
"""Checks of what surrounds a launch: plans in turns and run again, grids beyond what one launch can have."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from pabench.checks.attention_checks import find_difference, judge_output
from pabench.checks.outcome import PASSED, Outcome, failed
from pabench.checks.watched import inputs_of
from pabench.device.base import Device
from pabench.device.rooms import PLAIN, PlainRooms, in_rooms, make_rooms
from pabench.errors import PabenchError, Unsupported
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.layout import pages_needed
from pabench.problem.tensors import Tensors, build_tensors
from pabench.subjects.backends.base import AttentionOutput, Backend, attend
from pabench.subjects.backends.graph import graph_of


def check_plans(case: Case, backend: Backend, device: Device) -> Outcome:
    """Two plans of one shape and other numbers, used in turns, do not disturb each other, bit for bit.

    Both run before either is fetched, so that one output for all calls shows; and what was fetched stays as
    it is while the other plan runs.
    """
    first = build_tensors(case)
    second = build_tensors(_other(case))
    if backend.capabilities.why_not(second.case):
        raise Unsupported("no second problem that the backend can run")
    plans = [(first, backend.plan(first)), (second, backend.plan(second))]
    for _, plan in plans:
        backend.run(plan)
    seen, worst = [], 0.0
    for number, (tensors, plan) in enumerate(plans, start=1):
        returned = backend.fetch(plan)
        outcome = judge_output(tensors, returned, backend)
        if not outcome.passed:
            return replace(outcome, text=f"plan {number} of two: {outcome.text}")
        worst = max(worst, outcome.max_ratio or 0.0)
        seen.append((copied_output(returned), returned))
    for number, ((tensors, plan), (before, returned)) in enumerate(zip(plans, seen, strict=True), start=1):
        # looked at before anything is run again: what was returned may be memory that the other one uses too
        if changed := find_difference(tensors.case, returned_now(backend, plan, returned), before):
            return failed(f"plan {number} of two: another call changes {changed} that it had returned")
    for number, ((tensors, plan), (before, _)) in enumerate(zip(plans, seen, strict=True), start=1):
        backend.run(plan)
        changed = find_difference(tensors.case, backend.fetch(plan), before)
        if changed:
            return failed(f"plan {number} of two, run again after the other one, changes {changed}")
    return replace(PASSED, max_ratio=worst)


def returned_now(backend: Backend, plan: Any, returned: AttentionOutput) -> AttentionOutput:
    """Return what ``fetch`` of a plan had returned, as it stands by now, in whichever process it lies."""
    again = getattr(backend, "fetched_again", None)
    return returned if again is None else again(plan)


def copied_output(output: AttentionOutput) -> AttentionOutput:
    """Return ``output`` in memory of its own."""
    return AttentionOutput(out=output.out.copy(), lse=None if output.lse is None else output.lse.copy())


def _other(case: Case) -> Case:
    """The same shapes with other numbers, another scale, and the strides of the other layout."""
    return replace(
        case,
        problem=replace(case.problem, sm_scale=case.problem.scale * 3.0),
        kv_layout="NHD" if case.seed % 2 else case.kv_layout,
        seed=case.seed + 1,
    )


def check_replay(case: Case, backend: Backend, device: Device) -> Outcome:
    """A plan that runs again, or is replayed as a graph, answers for what its arrays hold by then, all bits.

    Queries, cache, lengths and block table change in place; no sequence becomes longer than it was planned.
    """
    given = build_tensors(case)
    later = _later(given)
    with in_rooms(device, make_rooms(device, PLAIN)) as rooms:
        plan = backend.plan(given)
        backend.run(plan)
        first = backend.fetch(plan)
        outcome = judge_output(given, first, backend)
        if not outcome.passed:
            return outcome
        replay = graph_of(backend, plan) if device.name == "cuda" else None
        rewrite(given, later, rooms)
        backend.run(plan)
        eager = backend.fetch(plan)
        outcome = judge_output(later, eager, backend)
        if not outcome.passed:
            return replace(outcome, text=f"run again after its arrays changed: {outcome.text}")
        for tensors, wanted in ((later, eager), (given, first)):
            rewrite(given, tensors, rooms)
            device.reschedule(case.seed + 1)
            try:
                (replay or partial(backend.run, plan))()
                device.synchronize()  # a graph has a stream of its own
            finally:
                device.reschedule(0)
            words = "its arrays changed" if tensors is later else "they were changed back"
            if changed := find_difference(tensors.case, backend.fetch(plan), wanted):
                return failed(f"replayed after {words}, it changes {changed}")
    return outcome


def _later(given: Tensors) -> Tensors:
    """Other tokens in other pages of the same pool, no sequence longer; the rest of the table is stale."""
    case, layout = given.case, given.layout
    if case.placement not in ("identity", "shuffled", "reversed"):
        raise Unsupported("a pool of another size holds the other pages")
    rng = np.random.default_rng(np.random.SeedSequence(case.seed, spawn_key=(3,)))
    lens = tuple(
        int(rng.choice(np.asarray([n, n // 2, max(0, n - 1), 0, int(rng.integers(0, n + 1))])))
        for n in case.batch.kv_lens
    )
    used = sum(pages_needed(n, layout.page_size) for n in lens)
    batch = Batch(kv_lens=lens, q_lens=case.batch.query_lens)
    alone = replace(case, batch=batch, shared_prefix=(), seed=case.seed + 1)
    other = build_tensors(replace(alone, spare_pages=layout.num_pages - used))
    table = layout.block_table.copy()
    for sequence, kv_len in enumerate(lens):
        pages = other.layout.pages(sequence, kv_len)
        table[sequence, : len(pages)] = pages
    return replace(other, layout=replace(other.layout, block_table=table))


def rewrite(given: Tensors, tensors: Tensors, rooms: PlainRooms) -> None:
    """Write the arrays of ``tensors`` over the copies that the device has of those of ``given``."""
    wanted = inputs_of(tensors)
    for name in rooms.rewrite({name: (host, wanted[name]) for name, host in inputs_of(given).items()}):
        if name != "qo_indptr":  # which decode does not need, and which stays
            raise Unsupported(f"{name} is not uploaded as it is, so nobody can change it in place")


def check_launch_limits(case: Case, backend: Backend, device: Device) -> Outcome:
    """A grid beyond the limits of one launch gives a right answer or a typed error, never a stale output."""
    tensors = build_tensors(case)
    try:
        output = attend(backend, tensors)
    except PabenchError as error:
        return PASSED if str(error).strip() else failed("refused by an error without text")
    return judge_output(tensors, output, backend)


def untouched(tensors: Tensors) -> dict[str, bytes]:
    """Return the bytes of every array of ``tensors`` that is there, by name."""
    return {name: np.asarray(array).tobytes() for name, array in inputs_of(tensors).items()}
