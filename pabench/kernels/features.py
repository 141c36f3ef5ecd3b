# SPDX-License-Identifier: Apache-2.0
"""Instances that do more than plain attention, and the arguments of that: see ``pab/features.cuh``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.kernels.row_formats import TILE_ROWS, takes_rows
from pabench.problem.dtypes import Array
from pabench.problem.problem import CACHE_FEATURES, Problem
from pabench.problem.scales import Scales, scales_of

LOG2_E = math.log2(math.e)
PLAIN, FEATURED = "", " with features"
PLAIN_E4M3, E4M3_CACHE = " over e4m3", " with features over e4m3"
ROW_CACHE = " with features over rows of any format"
VARIANTS = {
    PLAIN: {"PAB_FEATURES": 0, "PAB_E4M3": 0},
    FEATURED: {"PAB_FEATURES": 1, "PAB_E4M3": 0},
    PLAIN_E4M3: {"PAB_FEATURES": 0, "PAB_E4M3": 1},
    E4M3_CACHE: {"PAB_FEATURES": 1, "PAB_E4M3": 1},
}
"""Instances of one shape: for each kind of cache one does plain attention and nothing else, the other
whatever is asked."""
ROW_VARIANTS = {ROW_CACHE: {"PAB_FEATURES": 1, "PAB_E4M3": 0, "PAB_ROWS": 1}}
"""One more of kernels that take any format of the cache."""
LISTED, LISTED_E4M3 = " with features and key lists", " with features and key lists over e4m3"
LIST_VARIANTS = {
    LISTED: {"PAB_FEATURES": 1, "PAB_E4M3": 0, "PAB_KEY_LISTS": 1},
    LISTED_E4M3: {"PAB_FEATURES": 1, "PAB_E4M3": 1, "PAB_KEY_LISTS": 1},
}
"""Two more of decode kernels that take any set of keys: see ``pab/key_list.cuh``."""
TILE_ROW_VARIANTS = {
    f" with features{lists} over rows of {name}": {
        "PAB_FEATURES": 1,
        "PAB_E4M3": 0,
        "PAB_TILE_ROWS": number,
        **({"PAB_KEY_LISTS": 1} if lists else {}),
    }
    for lists in ("", " and key lists")
    for number, name in enumerate(TILE_ROWS, start=1)
}
"""More of the decode kernel, for caches of rows that hold their scales: see ``pab/row_tiles.cuh``."""
MASKED, MASKED_E4M3 = " with masks", " with masks over e4m3"
MASK_VARIANTS = {
    MASKED: {"PAB_FEATURES": 1, "PAB_E4M3": 0, "PAB_MASKS": 1},
    MASKED_E4M3: {"PAB_FEATURES": 1, "PAB_E4M3": 1, "PAB_MASKS": 1},
}
"""More of kernels that take the keys of each query row as bits, see ``pab/mask_bits.cuh``."""


def variant_of(problem: Problem) -> str:
    """Return which of ``VARIANTS`` computes ``problem``, or ``ROW_CACHE``.

    Masks, rows and how a cache lies go with each.
    """
    more = problem.features - {"non-causal", "fp8-kv", *CACHE_FEATURES}
    if problem.kv_dtype is not None:
        if takes_rows(problem):
            return ROW_CACHE
        return E4M3_CACHE if more else PLAIN_E4M3
    return FEATURED if more else PLAIN


def tile_variant_of(problem: Problem, *, lists: bool = False) -> str:
    """Return which variant of the tensor-core decode kernel computes ``problem``; ``lists``: of keys."""
    if takes_rows(problem):
        return f" with features{' and key lists' if lists else ''} over rows of {problem.kv_dtype}"
    if lists:
        return LISTED_E4M3 if problem.kv_dtype else LISTED
    return variant_of(problem)


def variant_arguments(device: Device, problem: Problem, defines: Mapping[str, int]) -> tuple[Any, ...]:
    """Return the arguments of ``PAB_FEATURE_PARAMETERS`` of an instance with the macros of a variant.

    Scales are those of all sequences.
    """
    if defines["PAB_FEATURES"]:
        return feature_arguments(device, problem)
    return (device.to_device(head_scales(problem)),) if defines["PAB_E4M3"] else ()


def head_scales(problem: Problem, scales: Scales = (), sequence: int = 0) -> Array:
    """Return what dot products and outputs of a head are multiplied by: ``(2, num_qo_heads) float32``."""
    q, k, v = (np.asarray(scales_of(scales, problem, kind, sequence)) for kind in "qkv")
    pairs = np.repeat(q * k, problem.group_size), np.repeat(v, problem.group_size)
    return np.stack(pairs).astype(np.float32)


def feature_arguments(
    device: Device, problem: Problem, scales: Scales = (), num_seqs: int = 1
) -> tuple[Any, ...]:
    """Return the arguments of ``PAB_FEATURE_PARAMETERS``; logits are in base 2.

    With ``scales`` they are those of ``PAB_SEQUENCE_SCALES``, for ``num_seqs`` sequences.
    """
    per_head = np.empty((2 + 2 * (num_seqs if scales else 1), problem.num_qo_heads))
    per_head[0] = np.asarray(problem.alibi_slopes or (0.0,)) * LOG2_E
    per_head[1] = -math.inf if problem.sinks is None else np.asarray(problem.sinks) * LOG2_E
    for sequence, pair in enumerate(per_head[2:].reshape(-1, 2, problem.num_qo_heads)):
        pair[:] = head_scales(problem, scales, sequence)
    return (
        np.int32(problem.window or 0),
        np.float32((problem.soft_cap or 0.0) * LOG2_E),
        device.to_device(per_head.astype(np.float32)),
    )
