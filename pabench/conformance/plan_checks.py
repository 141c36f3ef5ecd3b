"""Checks of what surrounds a launch: several plans at once, and grids beyond what one launch can have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pabench.backends.base import Backend, attend
from pabench.conformance.attention_checks import find_difference, judge_output
from pabench.conformance.outcome import PASSED, Outcome, failed
from pabench.device.base import Device
from pabench.errors import PabenchError, Unsupported
from pabench.problem.case import Case
from pabench.problem.tensors import Tensors, build_tensors


def check_plans(case: Case, backend: Backend, device: Device) -> Outcome:
    """Two plans of one shape and other numbers, used in turns, do not disturb each other, bit for bit."""
    first = build_tensors(case)
    second = build_tensors(_other(case))
    if backend.capabilities.why_not(second.case):
        raise Unsupported("no second problem that the backend can run")
    plans = [(first, backend.plan(first)), (second, backend.plan(second))]
    seen, worst = [], 0.0
    for number, (tensors, plan) in enumerate(plans, start=1):
        backend.run(plan)
        output = backend.fetch(plan)
        outcome = judge_output(tensors, output, backend)
        if not outcome.passed:
            return replace(outcome, text=f"plan {number} of two: {outcome.text}")
        worst = max(worst, outcome.max_ratio or 0.0)
        seen.append(output)
    for number, ((tensors, plan), before) in enumerate(zip(plans, seen, strict=True), start=1):
        backend.run(plan)
        changed = find_difference(tensors.case, backend.fetch(plan), before)
        if changed:
            return failed(f"plan {number} of two, run again after the other one, changes {changed}")
    return replace(PASSED, max_ratio=worst)


def _other(case: Case) -> Case:
    """The same shapes with other numbers, another scale, and the strides of the other layout."""
    return replace(
        case,
        problem=replace(case.problem, sm_scale=case.problem.scale * 3.0),
        kv_layout="NHD" if case.seed % 2 else case.kv_layout,
        seed=case.seed + 1,
    )


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
    arrays = {
        "q": tensors.q,
        "the cache": tensors.pool.storage,
        "block_table": tensors.layout.block_table,
        "kv_lens": tensors.kv_lens,
        "qo_indptr": tensors.qo_indptr,
    }
    return {name: np.asarray(array).tobytes() for name, array in arrays.items()}
