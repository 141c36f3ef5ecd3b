# SPDX-License-Identifier: Apache-2.0
"""Host times of a cell, on a part of the batch that the device can run in reasonable time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pabench.activities.sweep.cell import Cell
from pabench.device.base import Device, device_kind
from pabench.problem.case import Case
from pabench.problem.tensors import build_tensors
from pabench.subjects.backends.base import LAYERS, Backend, layered

TOKEN_HEAD_BUDGET = {"cuda": 2**23, "emulated": 2**16, "ptx": 2**16}
"""KV tokens x query heads that one run may cost.  The emulated device takes about a microsecond for each, so
that a run stays under a tenth of a second; on a GPU the bound only keeps the host's memory in check."""
PREPARE = "prepare_ns"
"""Figure: of ``run_ns``, what a backend does once a step for all layers of a model."""
CYCLES = "run_cycles"
"""Figure: ``run_ns`` in cycles of the multiprocessors at the clock of each sample."""
SAMPLES = {"cuda": 20, "emulated": 5, "ptx": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTimes:
    """Raw samples of the host clock.

    Attributes:
        plan_ns: time of each ``plan``: upload, conversion, choice of the launch.
        run_ns: time of each ``run`` until the device has finished.
        prepare_ns: of each, what serves all layers of a model; None where the backend has not that apart.
        token_heads: KV tokens x query heads that each run worked on.
    """

    plan_ns: tuple[int, ...]
    run_ns: tuple[int, ...]
    prepare_ns: tuple[int, ...] | None
    token_heads: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the journal line."""
        return {
            "plan_ns": list(self.plan_ns),
            "run_ns": list(self.run_ns),
            PREPARE: None if self.prepare_ns is None else list(self.prepare_ns),
            "run_token_heads": self.token_heads,
        }


def run_lengths(kv_lens: Sequence[int], num_qo_heads: int, budget: int) -> tuple[int, ...]:
    """Return the sequences from the front of the batch that fit the budget, the first one cut if it must be.

    The lengths of a batch are drawn independently, so the front is as good a sample as any part of it.
    """
    tokens = max(1, budget // num_qo_heads)
    kept = [min(kv_lens[0], tokens)]
    for length in kv_lens[1:]:
        if sum(kept) + length > tokens:
            break
        kept.append(length)
    return tuple(kept)


def part_case(cell: Cell) -> Case:
    """Return the part of the cell that a device without events runs."""
    return cell.case(
        run_lengths(
            cell.batch.kv_lens,
            cell.problem.num_qo_heads * cell.q_len,
            TOKEN_HEAD_BUDGET[device_kind(cell.device)],
        )
    )


def token_heads(case: Case) -> int:
    """Return KV tokens x query rows and heads that a run of ``case`` works on, those masked included."""
    lengths = zip(case.batch.kv_lens, case.batch.query_lens, strict=True)
    return sum(kv_len * q_len for kv_len, q_len in lengths) * case.problem.num_qo_heads


def measure(cell: Cell, backend: Backend, device: Device) -> HostTimes:
    """Time ``plan`` and ``run`` of ``part_case``; one warm-up goes before, so that no compiler is timed.

    Whatever the backend raises passes through.
    """
    case = part_case(cell)
    tensors = build_tensors(case)
    apart = LAYERS in backend.capabilities.operations
    plans, runs, prepared = [], [], []
    for sample in range(SAMPLES[device_kind(cell.device)] + 1):
        start = time.perf_counter_ns()
        plan = backend.plan(tensors)
        device.synchronize()
        planned = time.perf_counter_ns()
        backend.run(plan)
        device.synchronize()
        finished = time.perf_counter_ns()
        if sample:
            plans.append(planned - start)
            runs.append(finished - planned)
        if apart:
            start = time.perf_counter_ns()
            layered(backend).prepare(plan)
            device.synchronize()
            if sample:
                prepared.append(time.perf_counter_ns() - start)
    return HostTimes(
        plan_ns=tuple(plans),
        run_ns=tuple(runs),
        prepare_ns=tuple(prepared) if apart else None,
        token_heads=token_heads(case),
    )
