# SPDX-License-Identifier: Apache-2.0
"""The verdict: is an output right, and if not, where and in what way is it wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.judge.gather import to_float64
from pabench.judge.locate import describe
from pabench.judge.reference import Truth, truth
from pabench.judge.suspect import Cause
from pabench.problem.dtypes import FLOAT32, Array, DType
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Outcome of judging one output.

    Attributes:
        passed: no element is outside its bound.
        max_ratio: largest err/T over outputs and LSE; infinite for NaN, Inf or a wrong shape.
        text: one line for people.
        quantity: ``out`` or ``lse``, whichever the located element belongs to; None when there is none.
        row: query row of the worst element.
        sequence: sequence of that row.
        head: query head.
        dim: index in the head's vector, None for the LSE.
        got: the number found.
        expected: the truth.
        bound: largest error allowed there.
        checked: numbers compared.
        causes: the explanations in ``text`` that fit.
    """

    passed: bool
    max_ratio: float
    text: str
    quantity: str | None = None
    row: int | None = None
    sequence: int | None = None
    head: int | None = None
    dim: int | None = None
    got: float | None = None
    expected: float | None = None
    bound: float | None = None
    checked: int = 0
    causes: tuple[Cause, ...] = ()


def judge(
    tensors: Tensors,
    out: Any,
    lse: Any,
    profile: NumericsProfile,
    *,
    reference: Truth | None = None,
    allow_missing_lse: bool = False,
) -> Verdict:
    """Compare an output with the truth; fails wherever ``not (err <= T)``, so NaN fails.

    NaN and infinities must stand where the truth has them, with the same sign; an infinite output is also
    right where the truth plus its bound exceeds the largest number of the storage type.

    Args:
        tensors: what was asked.
        out: ``(rows, num_qo_heads, head_dim_v)``, storage dtype; anything else is a failing verdict.
        lse: ``(rows, num_qo_heads)`` float32, in the base of the profile, or None with
            ``allow_missing_lse``.
        profile: what the kernel declares about its arithmetic.
        reference: ``truth(tensors, profile)`` when the caller has it already.
        allow_missing_lse: the kernel does not offer the LSE.
    """
    storage = tensors.case.problem.storage
    rows = (tensors.q.shape[0], tensors.case.problem.num_qo_heads)
    wrong = _misfit("out", out, (*rows, tensors.case.problem.value_dim), storage.storage)
    if lse is not None:
        wrong = wrong or _misfit("lse", lse, rows, FLOAT32.storage)
    elif not allow_missing_lse:
        wrong = wrong or "lse is missing"
    if wrong:
        return Verdict(passed=False, max_ratio=math.inf, text=wrong)
    expected = truth(tensors, profile) if reference is None else reference
    got_out = to_float64(out, storage)
    ratios = error_ratios(got_out, expected.out, expected.out_bound, storage)
    got_lse, lse_ratios = None, np.zeros(0)
    if lse is not None:
        got_lse = to_float64(lse, FLOAT32) * profile.lse_unit
        lse_ratios = error_ratios(got_lse, expected.lse, expected.lse_bound, FLOAT32)
    checked = ratios.size + lse_ratios.size
    max_ratio = float(max(ratios.max(initial=0.0), lse_ratios.max(initial=0.0)))
    failed_out, failed_lse = int((ratios > 1.0).sum()), int((lse_ratios > 1.0).sum())
    if not failed_out and not failed_lse:
        counts = f"{ratios.size} outputs and {lse_ratios.size} lse"
        text = f"right: {counts} within the bound, largest err/T {max_ratio:.3g}"
        return Verdict(passed=True, max_ratio=max_ratio, text=text, checked=checked)

    quantity = "out" if failed_out else "lse"
    worst = ratios if failed_out else lse_ratios
    place = np.unravel_index(int(worst.argmax()), worst.shape)
    row, head, dim = int(place[0]), int(place[1]), int(place[2]) if failed_out else None
    sequence = int(np.searchsorted(tensors.qo_indptr, row, side="right")) - 1
    found, right, bound = (
        (got_out, expected.out, expected.out_bound)
        if got_lse is None or failed_out
        else (got_lse, expected.lse, expected.lse_bound)
    )
    text, causes = describe(
        tensors,
        expected,
        got_out,
        got_lse,
        profile,
        row=row,
        sequence=sequence,
        head=head,
        dim=dim,
        ratio=float(worst[place]),
        wrong=np.asarray((ratios > 1.0).any(axis=2) if failed_out else lse_ratios > 1.0),
    )
    failed = f"{failed_out} of {ratios.size} outputs and {failed_lse} of {lse_ratios.size} lse wrong"
    return Verdict(
        passed=False,
        max_ratio=max_ratio,
        text=f"{text} ({failed})",
        quantity=quantity,
        row=row,
        sequence=sequence,
        head=head,
        dim=dim,
        got=float(found[place]),
        expected=float(right[place]),
        bound=float(bound[place]),
        checked=checked,
        causes=causes,
    )


def _misfit(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str | None:
    """Return in words why ``array`` is not the numpy array it must be, or None."""
    if not isinstance(array, np.ndarray):
        return f"{name} is {type(array).__name__}, must be a numpy array"
    if array.shape != shape:
        return f"{name} has shape {array.shape}, must be {shape}"
    if array.dtype != dtype:
        return f"{name} has dtype {array.dtype}, must be {dtype}"
    return None


def error_ratios(got: Array, expected: Array, bound: Array, dtype: DType) -> Array:
    """Return err/T of every element: infinite where NaN or Inf are out of place, above 1 where it fails.

    Args:
        got: float64, any shape.
        expected: the truth, same shape.
        bound: largest absolute error allowed, same shape.
        dtype: what ``got`` was stored as; beyond its largest number an infinity is right.
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        error = np.abs(got - expected)
        ratio = np.where(error <= bound, 0.0, math.inf)
        finite = np.isfinite(error) & (bound > 0.0)
        # an infinite bound allows any finite number; the quotient is then 0
        np.divide(error, bound, out=ratio, where=finite & np.isfinite(bound))
        ratio[finite & (error > bound)] = np.maximum(ratio[finite & (error > bound)], np.nextafter(1.0, 2.0))
        ratio[finite & (error <= bound)] = np.minimum(ratio[finite & (error <= bound)], 1.0)
        overflow = np.isinf(got) & (np.sign(got) * expected + bound > dtype.maximum)
    same = (np.isnan(got) & np.isnan(expected)) | (np.isinf(expected) & (got == expected))
    ratio[same | overflow] = 0.0
    ratio[~same & ~np.isfinite(expected)] = math.inf
    return ratio
