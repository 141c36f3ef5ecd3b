# SPDX-License-Identifier: Apache-2.0
"""What kernels take the rows of a cache for that get them wrong; each gives the numbers that they take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pabench.problem.dtypes import Array, DType, decode
from pabench.problem.formats.format import Parts

SWIZZLED_TOKENS = 4
"""Tokens whose scales lie together where they are laid out for tensor cores."""


def first_scale(rows: Parts) -> Array:
    """The scales of the first token for all tokens."""
    return rows.with_scales(np.broadcast_to(rows.scales[:1], rows.scales.shape)).numbers


def no_scale(rows: Parts) -> Array:
    """Numbers as if their scales were 1."""
    return rows.with_scales(np.ones_like(rows.scales)).numbers


def next_scale(rows: Parts) -> Array:
    """The scale of the block after the own one, of the last block that of the first."""
    return rows.with_scales(np.roll(rows.scales, -1, axis=-1)).numbers


def first_block(rows: Parts) -> Array:
    """The scale of the first block for the whole row."""
    return rows.with_scales(np.broadcast_to(rows.scales[..., :1], rows.scales.shape)).numbers


def swizzled(rows: Parts) -> Array:
    """Scales of four tokens read as if token came after block: written plain, read swizzled."""
    tokens, heads, blocks = rows.scales.shape
    whole = tokens // SWIZZLED_TOKENS * SWIZZLED_TOKENS
    scales = rows.scales.copy()
    apart = scales[:whole].reshape(-1, SWIZZLED_TOKENS, heads, blocks).transpose(0, 2, 3, 1)
    scales[:whole] = apart.reshape(whole, heads, blocks)
    return rows.with_scales(scales).numbers


def other_half(rows: Parts) -> Array:
    """The high half of a byte taken first."""
    dim = rows.codes.shape[-1]
    order = np.arange(dim) ^ 1
    order = np.where(order < dim, order, dim - 1)
    numbers: Array = decode(rows.codes[..., order], rows.format.numbers) * rows.spread
    return numbers


def unsigned(rows: Parts) -> Array:
    """Two's complement taken as numbers without sign."""
    return rows.codes.astype(np.float64) * rows.spread


def as_type(dtype: DType) -> Callable[[Parts], Array]:
    """Bits taken for those of another type."""
    return lambda rows: decode(rows.codes, dtype) * rows.spread


def off_by_a_power(rows: Parts) -> Array:
    """A power of two taken with a bias of 128."""
    return rows.with_scales(rows.scales / 2.0).numbers
