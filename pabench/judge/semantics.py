# SPDX-License-Identifier: Apache-2.0
"""What a problem makes of a scaled dot product: soft cap, ALiBi bias, and how far each may be off.

Soft cap: ``cap * tanh(x / cap)`` (Gemma Team, "Gemma 2", 2024, section 2).  ALiBi: a bias of ``slope`` times
the distance (Press, Smith and Lewis, "Train short, test long", ICLR 2022), here ``key - query`` position, so
that the usual positive slopes fade old keys.
"""

from __future__ import annotations

import numpy as np

from pabench.judge.bound import U32, Rounding, capped_error
from pabench.problem.dtypes import Array
from pabench.problem.problem import Problem


def final_logits(problem: Problem, raw: Array, bias: Array | None) -> Array:
    """Return the logits: ``raw`` capped, then the bias added; no mask."""
    cap = problem.soft_cap
    logits = raw if cap is None else cap * np.tanh(raw / cap)
    return logits if bias is None else logits + bias


def final_error(problem: Problem, raw: Array, bias: Array | None, error: Array, rounding: Rounding) -> Array:
    """Return the error of ``final_logits`` before its last rounding, from ``error``, that of ``raw``.

    A bias adds ``4 u32 |b_j| + 2 u32 |c_j|``: slope, its change to base 2 and the product, and the rounding
    of what it is added to, which may cancel.
    """
    cap = problem.soft_cap
    if cap is not None:
        error = capped_error(raw, error, cap, rounding)
    if bias is None:
        return error
    return error + 4.0 * U32 * np.abs(bias) + 2.0 * U32 * np.abs(final_logits(problem, raw, None))
