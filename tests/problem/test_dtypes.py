# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pabench.errors import UnknownName
from pabench.problem.dtypes import (
    BFLOAT16,
    DTYPES,
    FLOAT16,
    FLOAT32,
    SMALL_TYPES,
    Array,
    DType,
    decode,
    dtype_by_name,
    encode,
)

TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
EVERY_16_BITS = np.arange(2**16, dtype=np.uint32).astype(np.uint16)


def _by_torch(values: Array, dtype: DType) -> Array:
    rounded = torch.from_numpy(np.ascontiguousarray(values)).to(TORCH[dtype.name])
    if dtype is BFLOAT16:
        return rounded.view(torch.int16).numpy().view(np.uint16)
    return np.asarray(rounded.numpy())


def _same(stored: Array, other: Array, dtype: DType) -> None:
    """Equal bits, except that any NaN equals any NaN."""
    nan = np.isnan(decode(stored, dtype))
    np.testing.assert_array_equal(nan, np.isnan(decode(other, dtype)))
    unsigned = np.uint32 if dtype is FLOAT32 else np.uint16
    np.testing.assert_array_equal(stored.view(unsigned)[~nan], other.view(unsigned)[~nan])


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=lambda d: d.name)
def test_dtypes_every_16_bit_value_survives(dtype: DType) -> None:
    stored = EVERY_16_BITS.view(dtype.storage)
    wide = decode(stored, dtype)
    assert wide.dtype == np.float64
    _same(encode(wide, dtype), stored, dtype)
    with np.errstate(invalid="ignore"):
        single = wide.astype(np.float32)
    _same(encode(single, dtype), stored, dtype)


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=lambda d: d.name)
def test_dtypes_round_as_torch_at_every_tie(dtype: DType) -> None:
    """All midpoints of neighbours, and a float32 step to either side of each: ties, subnormals, overflow."""
    wide = decode(EVERY_16_BITS.view(dtype.storage), dtype)
    finite = np.sort(np.unique(wide[np.isfinite(wide)]))
    middle = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    edge = np.float32(dtype.maximum) * np.asarray([1, 1 + 2.0**-12, 1 + 2.0**-9, 1 + 2.0**-8], np.float32)
    odd = np.asarray([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45], np.float32)
    values = np.concatenate([middle, edge, -edge, odd])
    values = np.concatenate(
        [values, np.nextafter(values, np.float32(9)), np.nextafter(values, np.float32(-9))]
    )
    _same(encode(values, dtype), _by_torch(values, dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda d: d.name)
def test_dtypes_float64_is_rounded_once(dtype: DType) -> None:
    """Just above a tie by less than a float32 step: rounding through float32 would fall back onto the tie."""
    step = 2 * dtype.unit_roundoff
    above, below = 1 + step / 2 + 2.0**-50, 1 + 3 * step / 2 - 2.0**-50
    rounded = decode(encode(np.asarray([above, below, -above, -below]), dtype), dtype)
    np.testing.assert_array_equal(rounded, [1 + step, 1 + step, -1 - step, -1 - step])


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda d: d.name)
def test_dtypes_constants(dtype: DType) -> None:
    torch_info = torch.finfo(TORCH[dtype.name])
    assert dtype.unit_roundoff == torch_info.eps / 2
    assert dtype.maximum == torch_info.max
    assert dtype.half_subnormal == torch_info.smallest_normal * torch_info.eps / 2
    assert dtype.itemsize == torch_info.bits // 8
    assert decode(encode(np.asarray(dtype.maximum), dtype), dtype) == dtype.maximum
    assert np.isinf(decode(encode(np.asarray(dtype.maximum * 1.01), dtype), dtype))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda d: d.name)
def test_dtypes_keep_shape_and_scalars(dtype: DType) -> None:
    assert encode(np.zeros((2, 0, 3)), dtype).shape == (2, 0, 3)
    assert encode(np.ones((4, 6))[::2, ::3], dtype).dtype == dtype.storage
    for value in (math.nan, -math.nan, math.inf, 0.0):
        stored = encode(np.asarray(value), dtype)
        assert stored.shape == ()
        np.testing.assert_equal(float(decode(stored, dtype)), value)


@given(st.floats(width=64), st.sampled_from(sorted(DTYPES)))
def test_dtypes_nearest_even_property(value: float, name: str) -> None:
    dtype = DTYPES[name]
    stored = encode(np.asarray([value]), dtype)
    got = float(decode(stored, dtype)[0])
    if math.isnan(value):
        assert math.isnan(got)
    elif abs(value) <= dtype.maximum:
        assert abs(got - value) <= max(abs(value) * dtype.unit_roundoff, dtype.half_subnormal)
        assert math.copysign(1, got) == math.copysign(1, value)
    else:
        assert abs(got) in (dtype.maximum, math.inf)


@given(st.floats(width=32), st.sampled_from(["float16", "bfloat16"]))
def test_dtypes_as_torch_property(value: float, name: str) -> None:
    values = np.asarray([value], np.float32)
    _same(encode(values, DTYPES[name]), _by_torch(values, DTYPES[name]), DTYPES[name])


@pytest.mark.parametrize(("name", "nearest"), [("bfloat", "bfloat16"), ("fp16", "float16"), (["x"], "")])
def test_dtypes_unknown_name(name: str, nearest: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown dtype .*{nearest}"):
        dtype_by_name(name)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("name", sorted(SMALL_TYPES))
def test_dtypes_small_ones_are_rounded_as_among_their_ties(name: str, kind: type) -> None:
    small = SMALL_TYPES[name]
    edges = np.concatenate([small.magnitudes, small.ties, [0.0, 1e-300, 1e-45, 65504.0, 3e38, 1e300, np.inf]])
    near = [edges, np.nextafter(edges, np.inf), np.nextafter(edges, 0.0), edges * (1 + 2.0**-20)]
    with np.errstate(over="ignore", under="ignore"):
        values: Array = np.concatenate([*near, np.random.default_rng(0).normal(0.0, 30.0, 4000)]).astype(kind)
    values = np.concatenate([values, -values, np.array([np.nan, -np.nan], kind)])
    wide = values.astype(np.float64)
    wanted = small.nearest(wide)
    if small.signed == "complement":
        wanted = np.where(wide < 0.0, -wanted.astype(np.int64), wanted) & (2**small.bits - 1)
    np.testing.assert_array_equal(encode(values, small.dtype), wanted)
