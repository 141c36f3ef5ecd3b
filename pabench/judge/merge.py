"""The truth of merging attention states, with the bound of every element.

A merge is a softmax over the states: their LSEs are the logits, their outputs the values.  The bound is that
of attention (``bound.py``) with the error of an LSE's difference in place of a dot product's.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from pabench.judge.bound import U32, logit_error, logit_weight, lse_bound, output_bound, rounding_of
from pabench.judge.gather import to_float64
from pabench.judge.reference import Truth
from pabench.problem.dtypes import FLOAT32, Array, DType
from pabench.problem.profile import ComputeProfile

PROFILE = ComputeProfile(p_dtype="float32", partial_dtype=None, accumulation="serial")
"""What every merge is held to: weights and sums in float32, in any order."""


def merge_truth(outs: Array, lses: Array, dtype: DType) -> Truth:
    """Return output and LSE of the merged states in float64, and how far a right kernel may be off.

    States with LSE -inf have no part, whatever their output.  Where no state is left, output is 0 and LSE
    -inf, exactly.

    Args:
        outs: ``(num_states, num_rows, num_heads, head_dim)``, storage form of ``dtype``.
        lses: ``(num_states, num_rows, num_heads)`` float32, finite or -inf.
        dtype: storage type.
    """
    live = torch.from_numpy(np.isfinite(lses))
    logits = torch.from_numpy(to_float64(lses, FLOAT32))
    values = torch.where(live[..., None], torch.from_numpy(to_float64(outs, dtype)), 0.0)
    maximum = logits.amax(0, keepdim=True)
    some = live.any(0)
    base = torch.where(some, maximum[0], 0.0)[None]
    total = torch.exp(logits - base).sum(0)
    lse = torch.where(some, base[0] + torch.log(total), -math.inf)
    relative = torch.where(live, logits - torch.where(some, lse, 0.0), -math.inf)
    weights = torch.exp(relative)[..., None]
    out = (weights * values).sum(0)
    # the difference to the maximum rounds, and its product with log2 e, whose constant rounds too
    distance = torch.where(live, (logits - base).abs(), 0.0)
    error = U32 * (distance + 2.0 * base.abs())
    error = logit_error(torch.where(live, logits, 0.0), base, error)
    drift = torch.where(live, logit_weight(relative, error), 0.0)[..., None]
    rounding = rounding_of(PROFILE, dtype)
    count = live.sum(0).double()
    bound = output_bound(
        logit_sum=(drift * (values - out).abs()).sum(0),
        a=(weights * values.abs()).sum(0),
        v_sum=values.abs().sum(0),
        total=torch.where(some, total, 1.0)[..., None],
        o=out,
        n=count[..., None],
        v_scale=torch.ones(()).double(),
        rounding=rounding,
    )
    lse_limit = lse_bound(weight_sum=drift[..., 0].sum(0), lse=lse, n=count, rounding=rounding)
    return Truth(
        out=out.numpy(),
        lse=lse.numpy(),
        out_bound=torch.where(some[..., None], bound, 0.0).numpy(),
        lse_bound=torch.where(some, lse_limit, 0.0).numpy(),
    )
