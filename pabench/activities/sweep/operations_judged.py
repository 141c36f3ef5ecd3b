# SPDX-License-Identifier: Apache-2.0
"""An operation timed or counted, and what it should have left; runs in the judge's process."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np

from pabench.activities.sweep.operation import HEAD_DIM, HEADS, PAGE_SIZE, Figures, Operation
from pabench.activities.sweep.operations import (
    SHOWN,
    order_of,
    pages_of,
    states_of,
    tokens_of,
)
from pabench.activities.sweep.times import TASKS, NoFigures, Tasks, is_time
from pabench.checks.outcome import words_of
from pabench.checks.remote.errors import SubjectEnded
from pabench.device.checked import KernelFindings
from pabench.errors import EnvironmentRefused, Unsupported
from pabench.judge.gather import to_float64
from pabench.judge.merge import merge_truth
from pabench.judge.verdict import error_ratios
from pabench.problem.dtypes import BFLOAT16, FLOAT32, Array
from pabench.run.plug import Answer
from pabench.run.record import Status

COUNTED_FIGURES = (
    *("counted_load_sectors", "counted_store_sectors", "distinct_sectors"),
    *("sectors_per_request", "wavefronts", "bank_conflicts"),
)
PART = 64
"""Tokens, rows or pages over which a checked device counts."""


def run_operation(operation: Operation, task: Tasks, *, checked: bool) -> Answer:
    """Have an operation timed, or counted on a checked device, and judge what it left.

    A time of what is wrong is none.

    Raises:
        EnvironmentRefused: the machine lacks what it needs, a compiler for instance.
        SubjectEnded: the process in which it ran ended.
    """
    try:
        figures = _counted(operation, task) if checked else _timed(operation, task)
    except (EnvironmentRefused, SubjectEnded):
        raise
    except (KernelFindings, _Wrong) as error:
        return operation.answered(Status.FAILED, str(error))
    except Unsupported as error:
        return operation.answered(Status.UNSUPPORTED, str(error))
    except NoFigures as error:
        return operation.answered(Status.CRASHED, str(error))
    except Exception as error:  # the cells are measured all the same
        return operation.answered(Status.CRASHED, words_of(error))
    return operation.answered(Status.PASSED, figures=figures)


class _Wrong(Exception):
    """What an operation left is wrong."""


def _timed(operation: Operation, task: Tasks) -> Figures:
    times = _asked(task, "operation_times", operation.name, operation.size)
    if not isinstance(times, list) or not times or not all(map(is_time, times)):
        raise NoFigures(f"{operation.name} gave no list of times")
    rate = operation.moved_bytes / max(1.0, median(times))
    figures = {"run_ns": times, "achieved_gbps": rate}
    return figures, dict.fromkeys(figures, "measured")


def _counted(operation: Operation, task: Tasks) -> Figures:
    size = min(operation.size, PART)
    counts = _asked(task, "operation_counts", operation.name, size)
    if not isinstance(counts, dict) or not all(is_time(counts.get(name)) for name in COUNTED_FIGURES):
        raise NoFigures(f"{operation.name} gave no counts")
    figures = {"counted_size": size, **{name: counts[name] for name in COUNTED_FIGURES}}
    return figures, dict.fromkeys(figures, "counted")


def _asked(task: Tasks, what: str, name: str, size: int) -> Any:
    """Times or counts of an operation that left what it should."""
    found = task(f"{TASKS}:{what}", {"name": name, "size": size})
    if not isinstance(found, tuple) or len(found) != 2:
        raise NoFigures(f"{name} returned {type(found).__name__}")
    if (wrong := why_wrong(name, size, found[1])) is not None:
        raise _Wrong(wrong)
    return found[0]


def why_wrong(name: str, size: int, left: Any) -> str | None:
    """Return what is wrong with the arrays that an operation left, None where they are right.

    Args:
        name: of ``OPERATIONS``.
        size: tokens, rows or pages.
        left: as the process of the device returned it, which is not believed.
    """
    expected = _expected(name, size)
    if not isinstance(left, tuple) or len(left) != len(expected):
        return f"{name} left {type(left).__name__}, must be {len(expected)} arrays"
    for found, wanted in zip(left, expected, strict=True):
        if not isinstance(found, np.ndarray) or (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            return f"{name} left an array of another shape or type than {wanted.dtype}{list(wanted.shape)}"
    if name == "merge":
        return _merged(size, *left)
    bad = sum(int((found != wanted).sum()) for found, wanted in zip(left, expected, strict=True))
    whole = sum(found.size for found in left)
    return f"{bad} of {whole} numbers that {name} left are wrong" if bad else None


def _expected(name: str, size: int) -> tuple[Array, ...]:
    """Arrays as they must be; of a merge their form alone."""
    if name == "append":
        return (_appended(size),)
    if name == "merge":
        outs, lses = states_of(size)
        return outs[0, :SHOWN], lses[0, :SHOWN]
    if name == "gather":
        stored = pages_of(-(-size // PAGE_SIZE))
        rows = stored[order_of(len(stored))].swapaxes(0, 1).reshape(2, -1, HEADS, HEAD_DIM)[:, :size]
        return rows[0, :SHOWN], rows[1, :SHOWN]
    return (pages_of(size)[order_of(size)][: SHOWN // PAGE_SIZE],)


def _appended(size: int) -> Array:
    """The first pages of the cache: the token of each slot, and what was there before where none is."""
    whole = np.full((2, -(-size // PAGE_SIZE) * PAGE_SIZE, HEADS, HEAD_DIM), 0xFFFF, BFLOAT16.storage)
    whole[:, order_of(size)] = tokens_of(size)
    return whole.reshape(2, -1, PAGE_SIZE, HEADS, HEAD_DIM)[:, : SHOWN // PAGE_SIZE]


def _merged(size: int, out: Array, lse: Array) -> str | None:
    outs, lses = states_of(size)
    truth = merge_truth(outs[:, :SHOWN], lses[:, :SHOWN], BFLOAT16)
    for name, found, right, bound, stored in (
        ("outputs", out, truth.out, truth.out_bound, BFLOAT16),
        ("LSEs", lse, truth.lse, truth.lse_bound, FLOAT32),
    ):
        worst = float(error_ratios(to_float64(found, stored), right, bound, stored).max())
        if not worst <= 1.0:
            return f"merge: {name} are off by {worst:.3g} times the bound"
    return None
