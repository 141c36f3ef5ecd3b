# SPDX-License-Identifier: Apache-2.0
"""The truth of merging attention states, with the bound of every element.

A merge is a softmax over the states: their LSEs are the logits, their outputs the values.  The bound is that
of attention (``bound.py``) with the error of an LSE's difference in place of a dot product's.
"""

from __future__ import annotations

import math

import numpy as np

from pabench.judge.bound import U32, logit_error, logit_weight, lse_bound, output_bound, rounding_of
from pabench.judge.gather import to_float64
from pabench.judge.reference import Truth
from pabench.problem.dtypes import FLOAT32, Array, DType
from pabench.problem.profile import NumericsProfile

PROFILE = NumericsProfile(p_dtype="float32", partial_dtype=None, accumulation="serial")
"""What every merge is held to: weights and sums in float32, in any order."""


@np.errstate(all="ignore")
def merge_truth(outs: Array, lses: Array, dtype: DType, *, lse_unit: float = 1.0) -> Truth:
    """Return output and LSE of the merged states in float64, and how far a right kernel may be off.

    States with LSE -inf have no part, whatever their output.  Where no state is left, output is 0 and LSE
    -inf, exactly.

    Args:
        outs: ``(num_states, num_rows, num_heads, head_dim)``, storage form of ``dtype``.
        lses: ``(num_states, num_rows, num_heads)`` float32, finite or -inf.
        dtype: storage type.
        lse_unit: what ``lses`` are multiplied by to be natural logarithms; the LSE of the truth is one.
    """
    live = np.isfinite(lses)
    logits = to_float64(lses, FLOAT32) * lse_unit
    values = np.where(live[..., None], to_float64(outs, dtype), 0.0)
    maximum = logits.max(0, keepdims=True)
    some = np.asarray(live.any(0))
    base = np.where(some, maximum[0], 0.0)[None]
    total = np.exp(logits - base).sum(0)
    lse = np.where(some, base[0] + np.log(total), -math.inf)
    relative = np.where(live, logits - np.where(some, lse, 0.0), -math.inf)
    weights = np.exp(relative)
    out = (weights[..., None] * values).sum(0)
    # the difference to the maximum rounds, and its product with log2 e, whose constant rounds too
    distance = np.where(live, np.abs(logits - base), 0.0)
    error = U32 * (distance + 2.0 * np.abs(base))
    error = logit_error(np.where(live, logits, 0.0), base, error)
    drift = np.where(live, logit_weight(relative, weights, error), 0.0)
    rounding = rounding_of(PROFILE, dtype)
    count = live.sum(0)
    bound = output_bound(
        logit_sum=(drift[..., None] * np.abs(values - out)).sum(0),
        a=(weights[..., None] * np.abs(values)).sum(0),
        v_sum=np.abs(values).sum(0),
        total=np.where(some, total, 1.0)[..., None],
        o=out,
        n=count[..., None],
        v_scale=np.ones(()),
        rounding=rounding,
    )
    lse_limit = lse_bound(weight_sum=drift.sum(0), lse=lse, n=count, rounding=rounding)
    return Truth(
        out=out,
        lse=lse,
        out_bound=np.where(some[..., None], bound, 0.0),
        lse_bound=np.where(some, lse_limit, 0.0),
    )
