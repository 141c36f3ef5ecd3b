# SPDX-License-Identifier: Apache-2.0
"""Checks of merging attention states."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pabench.checks.outcome import PASSED, Outcome, failed
from pabench.checks.watched import watched
from pabench.device.base import Device
from pabench.judge.gather import to_float64
from pabench.judge.merge import merge_truth
from pabench.judge.verdict import error_ratios
from pabench.problem.case import POISONS
from pabench.problem.dtypes import FLOAT32, Array, dtype_by_name
from pabench.problem.merge import MergeCase, build_merge
from pabench.problem.poison import poison_value
from pabench.subjects.backends.base import OPTIONAL, AttentionOutput, Backend, offered

TINY = 1e-8
"""Added to what an error is relative to."""


def check_merge(case: MergeCase, backend: Backend, device: Device) -> Outcome:
    """Merged states are within the bound; a state alone comes out bit for bit, none as 0 and -inf."""
    outs, lses = _states(case, backend)
    given = {"the outputs": outs, "the LSEs": lses}
    got, stray = watched(device, given, lambda: _merge(backend, case, outs, lses))
    if stray:
        return failed(stray)
    return _judged(case, outs, lses, got, backend)


def check_merge_in_place(case: MergeCase, backend: Backend, device: Device) -> Outcome:
    """States merged over the first of them are right, and as merged into memory of their own, bit for bit."""
    outs, lses = _states(case, backend)
    given = {"the outputs": outs, "the LSEs": lses}
    got, stray = watched(device, given, lambda: _merge(backend, case, outs, lses, "merge-in-place"))
    outcome = failed(stray) if stray else _judged(case, outs, lses, got, backend)
    if not outcome.passed or "merge" not in backend.capabilities.operations:
        return outcome
    if difference := _difference(got, _merge(backend, case, outs, lses)):
        return failed(f"merged in place instead of into memory of its own changes {difference}")
    return outcome


def check_merge_empty(case: MergeCase, backend: Backend, device: Device) -> Outcome:
    """What empty states hold changes no bit, and one more empty state leaves everything right."""
    outs, lses = _states(case, backend)
    first = _merge(backend, case, outs, lses)
    outcome = _judged(case, outs, lses, first, backend)
    if not outcome.passed:
        return outcome
    for poison in POISONS:
        got = _merge(backend, case, *_states(replace(case, poison=poison), backend))
        if difference := _difference(got, first):
            return failed(f"{poison} instead of {case.poison} in empty states changes {difference}")
    if backend.capabilities.num_states is not None:
        return outcome
    # the order of a sum may depend on the number of states, so not bit for bit
    blank = np.full_like(outs[:1], poison_value("nan", dtype_by_name(case.dtype)))
    for at in sorted({0, case.num_states // 2, case.num_states}):
        more = _insert(outs, at, blank), _insert(lses, at, np.full_like(lses[:1], -np.inf))
        outcome = _judged(case, *more, _merge(backend, case, *more), backend)
        if not outcome.passed:
            return replace(outcome, text=f"with an empty state full of NaN as state {at}: {outcome.text}")
    return outcome


def _states(case: MergeCase, backend: Backend) -> tuple[Array, Array]:
    """The states of a case, with LSEs in the base that the backend declares."""
    outs, lses = build_merge(case)
    return outs, (lses / backend.profile.lse_unit).astype(np.float32)


def _judged(case: MergeCase, outs: Array, lses: Array, got: AttentionOutput, backend: Backend) -> Outcome:
    wrong = _misfit(case, got)
    if wrong:
        return failed(wrong)
    dtype, found_lse, live = dtype_by_name(case.dtype), np.asarray(got.lse), np.isfinite(lses)
    for row, head in np.argwhere(live.sum(0) == 1).tolist():
        state = int(np.argmax(live[:, row, head]))
        mine, its = (
            (got.out[row, head], found_lse[row, head]),
            (outs[state, row, head], lses[state, row, head]),
        )
        if any(a.tobytes() != b.tobytes() for a, b in zip(mine, its, strict=True)):
            text = f"{_place(row, head)} has state {state} alone and must be it, bit for bit"
            return failed(f"{text}: got {to_float64(mine[0][:4], dtype)}, LSE {mine[1]}")
    unit = backend.profile.lse_unit
    truth = merge_truth(outs, lses, dtype, lse_unit=unit)
    worst = 0.0
    for name, found, right, bound, stored in (
        ("output", got.out, truth.out, truth.out_bound, dtype),
        ("LSE", found_lse, truth.lse, truth.lse_bound, FLOAT32),
    ):
        numbers = to_float64(found, stored) * (unit if name == "LSE" else 1.0)
        ratios = error_ratios(numbers, right, bound, stored)
        worst = max(worst, float(ratios.max(initial=0.0)))
        if worst > 1.0:
            at = tuple(int(i) for i in np.unravel_index(int(ratios.argmax()), ratios.shape))
            text = f"{name} of {_place(*at)}: err/T {worst:.3g}, got {numbers[at]:.6g}"
            text += (
                f", expected {right[at]:.6g}; {live[:, at[0], at[1]].sum()} of {len(outs)} states saw a key"
            )
            return failed(text, max_ratio=worst)
    return replace(PASSED, max_ratio=worst, errors=_errors(to_float64(got.out, dtype), truth.out))


def _errors(found: Array, right: Array) -> tuple[float, float]:
    """Largest absolute and relative error of merged outputs."""
    error = np.abs(found - right)
    return float(error.max(initial=0.0)), float((error / (np.abs(right) + TINY)).max(initial=0.0))


def _merge(
    backend: Backend, case: MergeCase, outs: Array, lses: Array, operation: str = "merge"
) -> AttentionOutput:
    output = offered(backend, operation)(outs, lses, case.dtype)
    if not isinstance(output, AttentionOutput):
        returned = f"{OPTIONAL[operation]} returned {type(output).__name__}"
        raise TypeError(f"{returned}, must return AttentionOutput")
    return output


def _misfit(case: MergeCase, got: AttentionOutput) -> str | None:
    """Say what is wrong with the form of a result, or None."""
    rows = (case.num_rows, case.num_heads)
    wanted: dict[str, tuple[Any, tuple[int, ...], Any]] = {
        "output": (got.out, (*rows, case.head_dim), dtype_by_name(case.dtype).storage),
        "LSE": (got.lse, rows, FLOAT32.storage),
    }
    for name, (array, shape, dtype) in wanted.items():
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
            given = f"{array.dtype}{list(array.shape)}" if hasattr(array, "shape") else type(array).__name__
            return f"the {name} is {given}, must be {dtype}{list(shape)}"
    return None


def _difference(got: AttentionOutput, first: AttentionOutput) -> str | None:
    for name, x, y in (("output", got.out, first.out), ("LSE", got.lse, first.lse)):
        a, b = np.asarray(x), np.asarray(y)
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"the form of the {name}"
        kind = np.dtype(f"u{a.dtype.itemsize}")
        where = np.argwhere(np.ascontiguousarray(a).view(kind) != np.ascontiguousarray(b).view(kind))
        if where.size:
            return f"the {name} of {_place(*where[0].tolist())}"
    return None


def _insert(states: Array, at: int, one: Array) -> Array:
    return np.concatenate([states[:at], one, states[at:]])


def _place(row: int, head: int, dim: int | None = None) -> str:
    return f"row {row}, head {head}" + ("" if dim is None else f", dim {dim}")
