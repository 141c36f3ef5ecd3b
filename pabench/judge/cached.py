# SPDX-License-Identifier: Apache-2.0
"""What the rows of a cache stand for: the judge's own reading, which shares no code with the writer's.

A row is read by what the table of formats says of it alone: the types of its numbers and scales, and how many
numbers share one.
"""

from __future__ import annotations

import math

import numpy as np

from pabench.problem.dtypes import Array, DType
from pabench.problem.problem import Problem


def floating(bits: int, *, exponent: int, fraction: int, bias: int) -> float:
    """Return what ``bits`` of a sign, ``exponent`` and ``fraction`` bits stand for, all of them finite."""
    sign = -1.0 if bits >> (exponent + fraction) else 1.0
    power, rest = bits >> fraction & (1 << exponent) - 1, bits & (1 << fraction) - 1
    if power == 0:
        return sign * math.ldexp(rest, 1 - bias - fraction)
    return sign * math.ldexp(rest + (1 << fraction), power - bias - fraction)


def e4m3(bits: int) -> float:
    """e4m3: no infinity, NaN where all bits but the sign are set."""
    return math.nan if bits & 0x7F == 0x7F else floating(bits, exponent=4, fraction=3, bias=7)


def e5m2(bits: int) -> float:
    """e5m2: infinity and NaN where all bits of the exponent are set, as in IEEE 754."""
    if bits & 0x7C == 0x7C:
        return math.nan if bits & 3 else math.copysign(math.inf, -(bits >> 7 or -1))
    return floating(bits, exponent=5, fraction=2, bias=15)


TABLES: dict[str, Array] = {
    "e4m3": np.array([e4m3(bits) for bits in range(256)]),
    "e5m2": np.array([e5m2(bits) for bits in range(256)]),
    "e2m1": np.array([floating(bits, exponent=2, fraction=1, bias=1) for bits in range(16)]),
    "e8m0": np.array([math.nan if bits == 255 else 2.0 ** (bits - 127) for bits in range(256)]),
    "int8": np.array([float(bits if bits < 128 else bits - 256) for bits in range(256)]),
    "int4": np.array([float(bits if bits < 8 else bits - 16) for bits in range(16)]),
}
"""What each pattern of the types of at most 8 bits stands for."""


def to_float64(stored: Array, dtype: DType) -> Array:
    """Return the numbers that ``stored`` (of ``dtype.storage``) stands for, as float64 of the same shape."""
    if dtype.name in TABLES:
        return TABLES[dtype.name][stored]
    if dtype.name == "bfloat16":
        # a bfloat16 is the upper half of a float32
        wide = np.zeros((*stored.shape, 2), dtype="<u2")
        wide[..., 1] = stored
        stored = wide.view("<f4")[..., 0]
    # a signalling NaN from a kernel is a NaN like any other, not worth a warning
    with np.errstate(invalid="ignore"):
        return np.asarray(stored, dtype=np.float64)


def row_numbers(problem: Problem, stored: Array, kind: str) -> Array:
    """Return what rows of K (``kind="k"``) or V (``"v"``) stand for, without ``k_scale`` and ``v_scale``.

    Args:
        problem: its format, and how many numbers a row has.
        stored: ``(..., row_units)``.
        kind: ``k`` or ``v``.

    Returns:
        float64 ``(..., head_dim)``, of values ``head_dim_v``.
    """
    form = problem.kv_format
    if form is None or form.scale is None:
        return to_float64(stored, problem.kv_storage)
    wanted = problem.head_dim if kind == "k" else problem.value_dim
    dim = problem.head_dim if problem.latent else wanted
    size = dim if form.block is None else form.block
    narrow = len(TABLES[form.numbers.name]) == 16
    count = (dim + 1) // 2 if narrow else dim
    first = -(-count // 4) * 4  # scales begin at a multiple of 4 bytes
    found = np.empty((*stored.shape[:-1], wanted))
    number, scale = TABLES[form.numbers.name], form.scale
    with np.errstate(invalid="ignore"):  # a poisoned scale
        for begin in range(0, wanted, size):
            end, at = min(begin + size, wanted), first + begin // size * scale.itemsize
            factor = np.ascontiguousarray(stored[..., at : at + scale.itemsize]).view(scale.storage)
            if narrow:
                element = np.arange(begin, end)
                bits = stored[..., element // 2] >> (element % 2 * 4).astype(np.uint8) & 15
            else:
                bits = stored[..., begin:end]
            found[..., begin:end] = number[bits] * to_float64(factor, scale)
    return found
