"""What the operations of ``operations.py`` should have left; runs in the judge's process."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np

from pabench.activities.sweep.operations import (
    HEAD_DIM,
    HEADS,
    PAGE_SIZE,
    SHOWN,
    moved_bytes,
    order_of,
    pages_of,
    states_of,
    tokens_of,
)
from pabench.activities.sweep.times import TASKS, Tasks, is_time
from pabench.checks.outcome import words_of
from pabench.checks.remote.errors import SubjectEnded
from pabench.judge.gather import to_float64
from pabench.judge.merge import merge_truth
from pabench.judge.verdict import error_ratios
from pabench.problem.dtypes import BFLOAT16, FLOAT32, Array


def timed_operation(task: Tasks, name: str, size: int) -> dict[str, Any]:
    """Have an operation timed, judge what it left, and return what ``run.json`` keeps of it: JSON values.

    A time of what is wrong is none: ``run_ns`` is None then, and ``reason`` says why.
    """
    times: Any = None
    reason: str | None = None
    try:
        found = task(f"{TASKS}:operation", {"name": name, "size": size})
        times, left = found if isinstance(found, tuple) and len(found) == 2 else (None, None)
        reason = why_wrong(name, size, left)
    except SubjectEnded as ended:
        reason = ended.ending.text
    except Exception as error:  # the cells are measured all the same
        reason = words_of(error)
    if reason is None and not (isinstance(times, list) and times and all(map(is_time, times))):
        reason = f"{name} gave no list of times"
    moved = moved_bytes(name, size)
    return {
        "name": name,
        "size": size,
        "bytes": moved,
        "run_ns": None if reason else times,
        "gbps": None if reason else moved / max(1.0, median(times)),
        "reason": reason,
    }


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
    bad = int((left[0] != expected[0]).sum())
    return f"{bad} of {left[0].size} numbers that {name} left are wrong" if bad else None


def _expected(name: str, size: int) -> tuple[Array, ...]:
    """Arrays as they must be; of a merge their form alone."""
    if name == "append":
        return (_appended(size),)
    if name == "merge":
        outs, lses = states_of(size)
        return outs[0, :SHOWN], lses[0, :SHOWN]
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
