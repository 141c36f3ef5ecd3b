# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.errors import DeviceFault
from pabench.problem.dtypes import Array, decode, dtype_by_name, encode
from tests.support.probe import probe

LANES = np.arange(32)
G, T = LANES // 4, 2 * (LANES % 4)


def loaded(rows: Array, order: Array, *, pitch: int = 16, transposed: bool, seed: int = 0) -> Array:
    """``(32 lanes, 4 matrices, 2 elements)`` that ldmatrix gives."""
    out = np.zeros((32, 4), np.uint32)
    probe(
        "matrix",
        "load",
        rows,
        order.astype(np.uint32),
        out,
        np.uint32(pitch),
        np.uint32(transposed),
        shared_bytes=64 * pitch,
        seed=seed,
    )
    return out.view(np.uint16).reshape(32, 4, 2)


@settings(max_examples=30, deadline=None)
@given(
    order=st.lists(st.integers(0, 63), min_size=32, max_size=32),
    pitch=st.sampled_from([16, 32, 48, 272]),
    transposed=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_emulated_matrix_load_reads_the_rows_that_lanes_name_property(
    order: list[int], pitch: int, transposed: bool, seed: int
) -> None:
    rows = np.arange(64 * 8, dtype=np.uint16).reshape(64, 8) + 1
    got = loaded(rows, np.array(order), pitch=pitch, transposed=transposed, seed=seed)
    for m in range(4):
        matrix = rows[order[8 * m : 8 * m + 8]]
        if transposed:
            matrix = matrix.T
        np.testing.assert_array_equal(got[:, m, 0], matrix[G, T])
        np.testing.assert_array_equal(got[:, m, 1], matrix[G, T + 1])


def fragments(a: Array, b: Array, c: Array) -> tuple[Array, Array, Array]:
    """Spread ``a (n, 16, 16)`` and ``b (n, 16, 8)``, as bits, and ``c (n, 16, 8)`` over the lanes."""

    def two(matrix: Array, row: Array, column: Array, down: bool) -> Array:
        low = matrix[:, row, column].astype(np.uint32)
        high = matrix[:, row + 1, column] if down else matrix[:, row, column + 1]
        return low | high.astype(np.uint32) << 16

    lanes_a = [two(a, G + 8 * (i % 2), T + 8 * (i // 2), False) for i in range(4)]
    lanes_b = [two(b, T + 8 * i, G, True) for i in range(2)]
    lanes_c = [c[:, G + 8 * (i // 2), T + i % 2] for i in range(4)]
    return (np.stack(lanes_a, -1), np.stack(lanes_b, -1), np.stack(lanes_c, -1).astype(np.float32))


def product(a: Array, b: Array, c: Array, dtype: str) -> Array:
    """``c + a b`` by the emulated instruction, ``(n, 16, 8)`` float32."""
    lanes_a, lanes_b, lanes_c = (np.ascontiguousarray(x) for x in fragments(a, b, c))
    probe(
        "matrix", "multiply", lanes_a, lanes_b, lanes_c, np.uint32(dtype == "bfloat16"), grid=(len(a), 1, 1)
    )
    out = np.zeros((len(a), 16, 8), np.float32)
    for i in range(4):
        out[:, G + 8 * (i // 2), T + i % 2] = lanes_c[:, :, i]
    return out


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_emulated_matrix_multiply_is_exact_on_whole_numbers(dtype: str) -> None:
    rng = np.random.default_rng(1)
    a, b, c = (rng.integers(-9, 10, (5, *shape)) for shape in ((16, 16), (16, 8), (16, 8)))
    storage = dtype_by_name(dtype)
    got = product(
        encode(a * 1.0, storage).view(np.uint16), encode(b * 1.0, storage).view(np.uint16), c, dtype
    )
    np.testing.assert_array_equal(got, c + a @ b)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_emulated_matrix_multiply_cuts_off_at_float(dtype: str) -> None:
    """Never beyond the exact sum, and less than one unit in the last place short of it."""
    rng = np.random.default_rng(2)
    storage = dtype_by_name(dtype)
    a, b = (
        rng.normal(size=shape) * 2.0 ** rng.integers(-6, 6, shape) for shape in ((40, 16, 16), (40, 16, 8))
    )
    a, b = encode(a, storage), encode(b, storage)
    c = rng.normal(size=(40, 16, 8)).astype(np.float32)
    exact = c + decode(a, storage).astype(np.float64) @ decode(b, storage).astype(np.float64)
    got = product(a.view(np.uint16), b.view(np.uint16), c, dtype).astype(np.float64)
    size = np.abs(exact)
    assert (np.abs(got) <= size * (1 + 1e-15)).all()
    assert (size - np.abs(got) < 2.0**-23 * size * (1 + 1e-6)).all()
    assert ((size - np.abs(got)) / size).max() > 2.0**-24  # rounding to nearest would be closer


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_emulated_matrix_multiply_keeps_denormals_and_shows_nan(dtype: str) -> None:
    a, b = np.zeros((1, 16, 16), np.uint16), np.zeros((1, 16, 8), np.uint16)
    c = np.zeros((1, 16, 8), np.float32)
    one = int(encode(np.array(1.0), dtype_by_name(dtype)).view(np.uint16))
    infinity, nan = (0x7C00, 0x7E00) if dtype == "float16" else (0x7F80, 0x7FC0)
    a[0, 3, 5], b[0, 5, :] = 1, one  # the smallest denormal
    a[0, 4, 0], a[0, 5, 0], b[0, 0, :] = infinity, nan, one
    b[0, 0, 7] = 0  # infinity times 0
    a[0, 6, 1], b[0, 1, 2] = infinity | 0x8000, one
    c[0, 6, 2], c[0, 7, 1], c[0, 8, 1] = np.inf, np.nan, np.float32(1e-42)
    got = product(a, b, c, dtype)[0]
    tiny = float(torch.tensor([1], dtype=torch.int16).view(getattr(torch, dtype)).double())
    assert (got[3] == tiny).all()
    assert np.isposinf(got[4, :7]).all()
    assert np.isnan(got[4, 7])
    assert np.isnan(got[5]).all()
    assert np.isnan(got[6, 2])  # infinity minus infinity
    assert np.isnan(got[7, 1])
    assert (got.view(np.uint32)[np.isnan(got)] == 0x7FFFFFFF).all()
    assert got[8, 1] == np.float32(1e-42)
    known = np.zeros((16, 8), bool)
    known[3:6], known[6], known[7, 1], known[8, 1] = True, True, True, True
    assert not got[~known].any()


@pytest.mark.parametrize(
    ("lane", "offset", "words"),
    [
        (0, 8, "ldmatrix: address not aligned to 16 bytes"),
        (31, 1023, "ldmatrix: address not aligned to 16 bytes"),
        (9, 1024, "ldmatrix: address outside the block's shared memory"),
        (9, 2**32 - 16, "ldmatrix: address outside the block's shared memory"),
    ],
)
def test_emulated_matrix_load_refuses_an_address(lane: int, offset: int, words: str) -> None:
    out = np.zeros(32, np.uint32)
    with pytest.raises(DeviceFault, match=rf"{words} \[block \(0, 0, 0\), thread \({lane}, 0, 0\)\]"):
        probe("matrix", "load_at", out, np.uint32(lane), np.uint32(offset), shared_bytes=1024)
    probe("matrix", "load_at", out, np.uint32(lane), np.uint32(1008), shared_bytes=1024)


@pytest.mark.parametrize("seed", range(3))
def test_emulated_matrix_needs_all_lanes_at_one_instruction(seed: int) -> None:
    out = np.zeros(32, np.uint32)
    with pytest.raises(DeviceFault, match="matrix instruction: lanes 0x00000080 have returned"):
        probe("matrix", "leave", out, shared_bytes=1024, seed=seed)
    with pytest.raises(DeviceFault, match="matrix instruction: lanes 0xffff0000 have returned or do not"):
        probe("matrix", "load_at", out, np.uint32(0), np.uint32(0), block=(16, 1, 1), shared_bytes=1024)
    with pytest.raises(DeviceFault, match="matrix instruction: lanes 0 and 16 of the warp"):
        probe("matrix", "differ", out, shared_bytes=1024, seed=seed)


def pairs(values: Array) -> tuple[Array, Array, Array, Array]:
    half, bf16 = (np.zeros(values.size // 2, np.uint32) for _ in range(2))
    back, tanh = np.zeros((values.size // 2, 4), np.float32), np.zeros(values.size, np.float32)
    size = np.uint32(values.size)
    probe("matrix", "pairs", values, half, bf16, back, tanh, size, grid=(-(-values.size // 64), 1, 1))
    return half, bf16, back, tanh


def test_emulated_matrix_packs_the_first_low() -> None:
    values = np.array([1.0, -2.0, 3e-8, np.inf, 65519.0, 65520.0, 1.00390625, -0.0], np.float32)
    half, bf16, back, _ = pairs(values)
    for i, (bits, dtype) in enumerate(((half, torch.float16), (bf16, torch.bfloat16))):
        expected = torch.from_numpy(values).to(dtype)
        np.testing.assert_array_equal(
            bits.view(np.uint16), expected.view(torch.int16).numpy().view(np.uint16)
        )
        np.testing.assert_array_equal(back[:, 2 * i : 2 * i + 2].ravel(), expected.float().numpy())


def test_emulated_matrix_tanh_errs_as_documented() -> None:
    rng = np.random.default_rng(4)
    values = np.concatenate(
        [rng.normal(size=4000) * 3, 2.0 ** rng.uniform(-100, 5, 4000), [0, -0.0, 1e30, -1e30]]
    )
    values = values.astype(np.float32)
    exact, got = np.tanh(values.astype(np.float64)), pairs(values)[3]
    error = np.abs(got - exact) / np.where(exact, np.abs(exact), 1)
    assert 0.9 * 2.0**-11 < error.max() <= 2.0**-11
    assert np.abs(got).max() <= 1
    assert got[-4:-2].tolist() == [0, 0]
    assert np.isnan(pairs(np.array([np.nan, 0], np.float32))[3][0])
