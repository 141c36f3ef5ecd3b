"""The storage types of a KV cache, and exact conversion between them and float64.

numpy has no bfloat16 and no e4m3, so these are carried as their bits in uint16 and uint8: ``DType.storage``
is the numpy type of the array, ``encode`` and ``decode`` translate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.errors import UnknownName

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DType:
    """A floating-point storage type.

    Attributes:
        unit_roundoff: half the distance from 1 to the next number, so that rounding to nearest errs by at
            most ``unit_roundoff * abs(x)`` in the normal range.
        half_subnormal: half the smallest subnormal, the error of rounding below the normal range.
        maximum: the largest finite value.
    """

    name: str
    storage: np.dtype[Any]
    unit_roundoff: float
    half_subnormal: float
    maximum: float

    @property
    def smallest_normal(self) -> float:
        """The smallest positive number with all its bits."""
        return self.half_subnormal / self.unit_roundoff

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(self.storage.itemsize)


FLOAT32 = DType(
    name="float32",
    storage=np.dtype(np.float32),
    unit_roundoff=2.0**-24,
    half_subnormal=2.0**-150,
    maximum=float(np.finfo(np.float32).max),
)
FLOAT16 = DType(
    name="float16",
    storage=np.dtype(np.float16),
    unit_roundoff=2.0**-11,
    half_subnormal=2.0**-25,
    maximum=65504.0,
)
BFLOAT16 = DType(
    name="bfloat16",
    storage=np.dtype(np.uint16),
    unit_roundoff=2.0**-8,
    half_subnormal=2.0**-134,
    maximum=(2.0 - 2.0**-7) * 2.0**127,
)

DTYPES = {dtype.name: dtype for dtype in (FLOAT32, FLOAT16, BFLOAT16)}

E4M3 = DType(
    name="e4m3",
    storage=np.dtype(np.uint8),
    unit_roundoff=2.0**-4,
    half_subnormal=2.0**-10,
    maximum=448.0,
)
"""4 exponent and 3 fraction bits, no infinity, NaN at all ones (Micikevicius et al., "FP8 formats for deep
learning", 2022).  A cache may be stored so; queries and outputs are not."""


def _e4m3_magnitudes() -> Array:
    """float64 ``(127,)``: what the bits 0x00 to 0x7E stand for, in rising order."""
    bits = np.arange(127)
    exponent, fraction = bits >> 3, bits & 7
    numbers: Array = np.ldexp(np.where(exponent == 0, fraction, 8.0 + fraction), np.maximum(exponent, 1) - 10)
    return numbers


_E4M3_MAGNITUDES = _e4m3_magnitudes()
_E4M3_TIES = (_E4M3_MAGNITUDES[1:] + _E4M3_MAGNITUDES[:-1]) / 2
_E4M3_NUMBERS = np.concatenate([_E4M3_MAGNITUDES, [np.nan], -_E4M3_MAGNITUDES, [np.nan]])


def dtype_by_name(name: str) -> DType:
    """Return the storage type called ``name``; raises ``UnknownName`` with the nearest name."""
    try:
        return DTYPES[name]
    except (KeyError, TypeError):
        raise UnknownName("dtype", str(name), DTYPES) from None


def encode(values: Array, dtype: DType) -> Array:
    """Round ``values`` (any float type, any shape) to ``dtype``, nearest even; returns ``dtype.storage``.

    The value is rounded once, whatever its type.  Values beyond the largest finite one become infinities, or
    that number itself in a type that has none; NaN stays NaN.
    """
    values = np.asarray(values)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dtype is E4M3:
            return _encode_e4m3(values)
        if dtype is not BFLOAT16:
            return values.astype(dtype.storage)
        bits = _float32_bits_to_odd(values)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet_nan, rounded).astype(np.uint16)


def _encode_e4m3(values: Array) -> Array:
    magnitude = np.abs(values.astype(np.float64))
    bits = np.searchsorted(_E4M3_TIES, magnitude)  # a tie goes down ...
    on_tie = _E4M3_TIES[np.minimum(bits, _E4M3_TIES.size - 1)] == magnitude
    bits = bits + (on_tie & (bits % 2 == 1))  # ... unless that is odd
    bits = np.where(np.isnan(values), 0x7F, bits)
    return (bits | np.where(np.signbit(values), 0x80, 0)).astype(np.uint8)


def _float32_bits_to_odd(values: Array) -> Array:
    """Bits of ``values`` as float32, where an inexact one is cut off and its last bit set.

    A later rounding to fewer bits then sees on which side of a tie the value was; rounding to nearest twice
    would not (Boldo and Melquiond, "When double rounding is odd", 2005).
    """
    single = values.astype(np.float32)
    bits = single.view(np.uint32)
    if values.dtype.itemsize <= single.dtype.itemsize:
        return bits
    back = single.astype(values.dtype)
    cut = bits - (np.abs(back) > np.abs(values)).astype(np.uint32)
    return np.where((back == values) | np.isnan(values), bits, cut | np.uint32(1))


def decode(stored: Array, dtype: DType) -> Array:
    """Return ``stored`` (of ``dtype.storage``) as float64, exactly."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        if dtype is BFLOAT16:
            widened = np.asarray(stored, dtype=np.uint16).astype(np.uint32) << 16
            return widened.view(np.float32).astype(np.float64)
        if dtype is E4M3:
            numbers: Array = _E4M3_NUMBERS[np.asarray(stored, dtype=np.uint8)]
            return numbers
        return np.asarray(stored).astype(np.float64)
