# SPDX-License-Identifier: Apache-2.0
"""Instances that do more than plain attention, and the arguments of that: see ``pab/features.cuh``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.kernels.row_formats import takes_rows
from pabench.problem.problem import CACHE_FEATURES, Problem
from pabench.problem.scales import Scales, scales_of

LOG2_E = math.log2(math.e)
PLAIN, FEATURED, E4M3_CACHE = "", " with features", " with features over e4m3"
ROW_CACHE = " with features over rows of any format"
VARIANTS = {
    PLAIN: {"PAB_FEATURES": 0, "PAB_E4M3": 0},
    FEATURED: {"PAB_FEATURES": 1, "PAB_E4M3": 0},
    E4M3_CACHE: {"PAB_FEATURES": 1, "PAB_E4M3": 1},
}
"""Instances of one shape: one does plain attention and nothing else, the others whatever is asked."""
ROW_VARIANTS = {ROW_CACHE: {"PAB_FEATURES": 1, "PAB_E4M3": 0, "PAB_ROWS": 1}}
"""One more of kernels that take any format of the cache."""


def variant_of(problem: Problem) -> str:
    """Return which of ``VARIANTS`` computes ``problem``, or ``ROW_CACHE``.

    Masks, rows and how a cache lies go with each.
    """
    if problem.kv_dtype is not None:
        return ROW_CACHE if takes_rows(problem) else E4M3_CACHE
    return FEATURED if problem.features - {"non-causal", *CACHE_FEATURES} else PLAIN


def feature_arguments(
    device: Device, problem: Problem, scales: Scales = (), num_seqs: int = 1
) -> tuple[Any, ...]:
    """Return the arguments of ``PAB_FEATURE_PARAMETERS``; logits are in base 2.

    With ``scales`` they are those of ``PAB_SEQUENCE_SCALES``, for ``num_seqs`` sequences.
    """
    heads, group = problem.num_qo_heads, problem.group_size
    per_head = np.empty((2 + 2 * (num_seqs if scales else 1), heads))
    per_head[0] = np.asarray(problem.alibi_slopes or (0.0,)) * LOG2_E
    per_head[1] = -math.inf if problem.sinks is None else np.asarray(problem.sinks) * LOG2_E
    for sequence, pair in enumerate(per_head[2:].reshape(-1, 2, heads)):
        q, k, v = (np.asarray(scales_of(scales, problem, kind, sequence)) for kind in "qkv")
        pair[:] = np.repeat(q * k, group), np.repeat(v, group)
    return (
        np.int32(problem.window or 0),
        np.float32((problem.soft_cap or 0.0) * LOG2_E),
        device.to_device(per_head.astype(np.float32)),
    )
