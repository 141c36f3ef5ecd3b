# SPDX-License-Identifier: Apache-2.0
"""The storage types of a KV cache, and exact conversion between them and float64.

numpy has no bfloat16 and none of the types of 8 and 4 bits, so these are carried as their bits in uint16 and
uint8: ``DType.storage`` is the numpy type of the array, ``encode`` and ``decode`` translate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SmallType:
    """A type of at most 8 bits, as the numbers that its bits stand for.

    Attributes:
        dtype: its name and its roundings; ``storage`` is uint8, in whose low bits a number of 4 bits lies.
        bits: of a number.
        magnitudes: float64, what the bits from 0 on stand for, in rising order; the last may be infinite.
        ties: float64, what lies half way between two of them.
        nan: bits of a NaN, None in a type without.
        signed: ``bit`` for a sign bit, ``complement`` for two's complement, empty for a type without sign.
    """

    dtype: DType
    bits: int
    magnitudes: Array
    ties: Array
    nan: int | None
    signed: str

    @property
    def numbers(self) -> Array:
        """float64 ``(2**bits,)``: what each pattern stands for."""
        found = np.full(2**self.bits, np.nan)
        codes = np.arange(self.magnitudes.size)
        found[codes] = self.magnitudes
        if self.signed == "bit":
            found[codes + 2 ** (self.bits - 1)] = -self.magnitudes
        elif self.signed:
            found[-codes[1:]] = -self.magnitudes[1:]
            found[2 ** (self.bits - 1)] = -(2.0 ** (self.bits - 1))
        return found

    def encode(self, values: Array) -> Array:
        """Round to nearest, ties to even bits; what is too large becomes the last magnitude."""
        wide: Array = np.asarray(values)
        wide = wide if wide.dtype.kind == "f" else wide.astype(np.float64)
        if self.signed == "complement":
            # the bits of a whole number are that number; NaN has none, and becomes the largest
            code: Array = np.rint(np.fmin(np.abs(wide), self.magnitudes[-1])).astype(np.int64)
            bits: Array = (np.where(wide < 0.0, -code, code) & (2**self.bits - 1)).astype(np.uint8)
            return bits
        odd = _float32_bits_to_odd(wide)
        coded: Array = _rounded(self.dtype.name)[(odd >> 16) | ((odd & 0xFFFF) != 0)]
        return coded

    def nearest(self, values: Array) -> Array:
        """Return the same of float64 ``values``, found among the ties."""
        magnitude = np.abs(values)
        code = np.searchsorted(self.ties, magnitude)  # a tie goes down ...
        on_tie = self.ties[np.minimum(code, self.ties.size - 1)] == magnitude
        code = code + (on_tie & (code % 2 == 1))  # ... unless that is odd
        if self.nan is not None:
            code = np.where(np.isnan(values), self.nan, code)
        if self.signed == "bit":
            code = code | np.where(np.signbit(values), 2 ** (self.bits - 1), 0)
        return code.astype(np.uint8)


@cache
def _rounded(name: str) -> Array:
    """Bits of a floating-point type for each upper half of a float32, whose last bit says whether it was cut.

    The half has 8 bits of a number, two more than any of these types at least, so that no tie is lost.
    """
    halves = np.arange(2**16, dtype=np.uint32) << 16
    with np.errstate(invalid="ignore"):  # signalling NaN
        return SMALL_TYPES[name].nearest(halves.view(np.float32).astype(np.float64))


def _floating(exponent_bits: int, fraction_bits: int, bias: int, count: int) -> Array:
    """Magnitudes of the bits ``0..count-1`` of a floating-point type with subnormals."""
    codes = np.arange(count)
    exponent, fraction = codes >> fraction_bits, codes & (2**fraction_bits - 1)
    normal = np.where(exponent == 0, fraction, 2.0**fraction_bits + fraction)
    numbers: Array = np.ldexp(normal, np.maximum(exponent, 1) - bias - fraction_bits)
    return numbers


def _small(
    name: str,
    *,
    bits: int,
    magnitudes: Array,
    unit_roundoff: float,
    half_subnormal: float,
    nan: int | None = None,
    signed: str = "bit",
    infinite: bool = False,
) -> SmallType:
    ties = (magnitudes[1:] + magnitudes[:-1]) / 2
    if infinite:  # the last magnitude is what infinity stands in the place of
        magnitudes = np.append(magnitudes[:-1], np.inf)
    largest = float(magnitudes[np.isfinite(magnitudes)].max())
    dtype = DType(
        name=name,
        storage=np.dtype(np.uint8),
        unit_roundoff=unit_roundoff,
        half_subnormal=half_subnormal,
        maximum=largest,
    )
    return SmallType(dtype=dtype, bits=bits, magnitudes=magnitudes, ties=ties, nan=nan, signed=signed)


_SMALL = (
    _small(
        "e4m3",
        bits=8,
        magnitudes=_floating(4, 3, 7, 127),
        unit_roundoff=2.0**-4,
        half_subnormal=2.0**-10,
        nan=0x7F,
    ),
    _small(
        "e5m2",
        bits=8,
        magnitudes=_floating(5, 2, 15, 125),
        unit_roundoff=2.0**-3,
        half_subnormal=2.0**-17,
        nan=0x7F,
        infinite=True,
    ),
    _small("e2m1", bits=4, magnitudes=_floating(2, 1, 1, 8), unit_roundoff=0.25, half_subnormal=0.25),
    _small(
        "int8",
        bits=8,
        magnitudes=np.arange(128.0),
        unit_roundoff=0.5,
        half_subnormal=0.5,
        signed="complement",
    ),
    _small(
        "int4", bits=4, magnitudes=np.arange(8.0), unit_roundoff=0.5, half_subnormal=0.5, signed="complement"
    ),
    _small(
        "e8m0",
        bits=8,
        magnitudes=np.ldexp(1.0, np.arange(-127, 128)),
        unit_roundoff=0.5,
        half_subnormal=2.0**-128,
        nan=0xFF,
        signed="",
    ),
)
SMALL_TYPES = {small.dtype.name: small for small in _SMALL}
"""Types of a cache alone, by name.  Floating-point ones: e4m3 (no infinity) and e5m2 (Micikevicius et al.,
"FP8 formats for deep learning", 2022), e2m1 and powers of two as e8m0 (OCP, "Microscaling Formats", 2023)."""
_NUMBERS = {name: small.numbers for name, small in SMALL_TYPES.items()}
E4M3, E5M2, E2M1, INT8, INT4, E8M0 = (small.dtype for small in _SMALL)


def dtype_by_name(name: str) -> DType:
    """Return the storage type called ``name``; raises ``UnknownName`` with the nearest name."""
    try:
        return DTYPES[name]
    except (KeyError, TypeError):
        raise UnknownName("dtype", str(name), DTYPES) from None


def encode(values: Array, dtype: DType) -> Array:
    """Round ``values`` (any float type, any shape) to ``dtype``, nearest even; returns ``dtype.storage``.

    The value is rounded once, whatever its type.  Values beyond the largest finite one become infinities, or
    that number itself in a type that has none; NaN stays NaN where there is one.
    """
    values = np.asarray(values)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dtype.name in SMALL_TYPES:
            return SMALL_TYPES[dtype.name].encode(values)
        if dtype is not BFLOAT16:
            return values.astype(dtype.storage)
        bits = _float32_bits_to_odd(values)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet_nan, rounded).astype(np.uint16)


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
    np.subtract(bits, np.abs(back) > np.abs(values), out=bits)
    # a NaN is unequal to itself, and one with its last bit set is another NaN
    np.bitwise_or(bits, back != values, out=bits)
    return bits


def decode(stored: Array, dtype: DType) -> Array:
    """Return ``stored`` (of ``dtype.storage``) as float64, exactly."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        if dtype is BFLOAT16:
            widened = np.asarray(stored, dtype=np.uint16).astype(np.uint32) << 16
            return widened.view(np.float32).astype(np.float64)
        if dtype.name in SMALL_TYPES:
            numbers: Array = _NUMBERS[dtype.name][np.asarray(stored, dtype=np.uint8)]
            return numbers
        return np.asarray(stored).astype(np.float64)
