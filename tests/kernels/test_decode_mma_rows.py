# SPDX-License-Identifier: Apache-2.0
"""The tensor-core decode kernel over rows that hold their scales: int8, int4, e4m3, NVFP4."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pabench.device.checked import CheckedDevice
from pabench.device.registry import open_device
from pabench.errors import InvalidCase, Unsupported
from pabench.kernels.row_formats import TILE_ROWS
from pabench.problem import Batch, Case, Problem, Tensors, build_tensors
from pabench.problem.dtypes import Array, decode
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from tests.device.ptx.test_device import needs_nvrtc
from tests.support.counting import counting_device
from tests.support.kernel_support import bits, judged
from tests.support.probe import DEVICE, probe

LENGTHS, QUERIES = (0, 1, 63, 64, 65, 130, 200, 3), (1, 1, 2, 8, 1, 5, 1, 8)
OF_TOKENS = tuple(name for name in TILE_ROWS if name != "nvfp4")
DTYPES = ("float16", "bfloat16")


def problem_of(name: str, **fields: Any) -> Problem:
    scales = {"k_scale": (0.5, 3.0), "v_scale": (1.5,)} if name == "nvfp4" else {}
    given: dict[str, Any] = {"num_qo_heads": 6, "num_kv_heads": 2, "head_dim": 32, "page_size": 5}
    return Problem(**{**given, "dtype": "bfloat16", "kv_dtype": name, **scales, **fields})


def tensors_of(problem: Problem, **fields: Any) -> Tensors:
    given: dict[str, Any] = {"batch": Batch(kv_lens=LENGTHS, q_lens=QUERIES), "poison": "nan"}
    return build_tensors(Case(problem=problem, **{**given, **fields}))


def scales_of(view: Array, problem: Problem) -> Array:
    """The float32 scales of rows ``(..., row_units)``, a view."""
    assert problem.kv_format is not None
    start = problem.kv_format.scales_at(problem.head_dim)
    scales: Array = view[..., start : start + 4].view(np.float32)[..., 0]
    return scales


def with_scales(tensors: Tensors, kind: str, factors: Array) -> Tensors:
    """Tensors whose scales of keys or values are multiplied by ``factors``, one a place of the pool."""
    pool = tensors.pool.with_storage(tensors.pool.storage.copy())
    scales = scales_of(pool.k if kind == "k" else pool.v, tensors.case.problem)
    scales *= factors.reshape(scales.shape).astype(np.float32)
    return replace(tensors, pool=pool)


def powers(tensors: Tensors, low: int, high: int, seed: int = 0) -> Array:
    """A power of two for each place of the pool."""
    places = tensors.pool.k[..., 0].shape
    found: Array = np.ldexp(1.0, np.random.default_rng(seed).integers(low, high, places))
    return found


# --- numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["half", "bfloat"])
def test_kernels_decode_mma_rows_fuse_pairs_rounded_once(name: str) -> None:
    rng = np.random.default_rng(3)
    a, b, c = rng.integers(0, 2**32, (3, 20_000), dtype=np.uint32)
    special = np.array([0, 0x8000, 1, 0x8001, 0x7F80, 0x7C00, 0x3C00, 0x3F80, 0x7FFF, 0x0400], np.uint32)
    for row, at in ((a, 0), (b, 100), (c, 200)):
        row[at : at + special.size] = special * 0x10001
    # sums that nearly cancel, so that rounding twice would show
    c[5000:10000] = a[5000:10000] ^ 0x80008000
    b[5000:10000] = (0x3C01 if name == "half" else 0x3F81) * 0x10001
    found = np.zeros(a.size, np.uint32)
    probe("numbers", f"fma_{name}", a, b, c, found, np.uint32(a.size), grid=(80, 1, 1), block=(256, 1, 1))

    def wide(words: Array) -> Array:
        halves = words.view(np.uint16)
        if name == "half":
            return halves.view(np.float16).astype(np.longdouble)
        return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.longdouble)

    with np.errstate(all="ignore"):
        exact = wide(a) * wide(b) + wide(c)
    got = wide(found)
    finite = np.isfinite(exact)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
    # nothing representable is nearer than what was found, either way
    halves = found.view(np.uint16)
    with np.errstate(all="ignore"):
        for step in (-1, 1):
            beside = wide((halves + np.uint16(step % 2**16)).view(np.uint32))
            same_sign = np.signbit(beside) == np.signbit(got)
            near = finite & np.isfinite(got) & np.isfinite(beside) & same_sign
            assert (abs(got - exact)[near] <= abs(beside - exact)[near]).all()


@pytest.mark.parametrize(
    ("selector", "expected"),
    [(0x3210, "00112233"), (0x7531, "113355 77".replace(" ", "")), (0x0040, "00440000")],
)
def test_kernels_decode_mma_rows_permute_bytes_of_two_words(selector: int, expected: str) -> None:
    """Written lowest byte first."""
    found = np.zeros(32, np.uint32)
    low, high = (np.frombuffer(bytes.fromhex(text) * 32, np.uint32) for text in ("00112233", "44556677"))
    probe("numbers", "permute_two_words", low, high, found, np.uint32(selector))
    assert found.tobytes().hex() == expected * 32


# --- attention ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "head_dim"),
    [("float16", 80), ("bfloat16", 80), ("bfloat16", 16), ("float16", 128), ("bfloat16", 192)],
)
@pytest.mark.parametrize("name", TILE_ROWS)
def test_kernels_decode_mma_rows_right_in_every_form(name: str, dtype: str, head_dim: int) -> None:
    """One step, a chunk half zeros, scales that fill no word, queries that stay in no register."""
    tensors = tensors_of(problem_of(name, dtype=dtype, head_dim=head_dim))
    for cut in ({"blocks": 3}, {"split_tokens": 64}):
        judged(RawKernelMmaBackend(DEVICE, **cut), tensors)


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("name", TILE_ROWS)
def test_kernels_decode_mma_rows_with_features_and_lists(name: str, layout: str) -> None:
    features = {
        "soft_cap": 20.0,
        "alibi_slopes": (0.5, 0.0, -0.25, 0.01, 1.0, 0.125),
        "sinks": (0.3, -40.0, 5.0, 40.0, -1e4, 1.0),
    }
    problem = problem_of(name, **features)
    judged(RawKernelMmaBackend(DEVICE), tensors_of(replace(problem, window=70), kv_layout=layout))
    lists = tuple((*range(length - 1, -1, -3), -1) for length in LENGTHS)
    masked = tensors_of(problem, kv_layout=layout, masks=(("token-lists", lists),))
    judged(RawKernelMmaBackend(DEVICE, blocks=5), masked)


@pytest.mark.parametrize("architecture", ["ptx:sm_80", "ptx:sm_90a"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TILE_ROWS)
@needs_nvrtc
@pytest.mark.slow
def test_kernels_decode_mma_rows_right_as_compiled(name: str, dtype: str, architecture: str) -> None:
    tensors = tensors_of(problem_of(name, dtype=dtype, head_dim=80))
    judged(RawKernelMmaBackend(open_device(architecture)), tensors)


@pytest.mark.parametrize("kind", ["k", "v"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OF_TOKENS)
def test_kernels_decode_mma_rows_right_for_scales_far_apart(name: str, dtype: str, kind: str) -> None:
    """Those of values reach beyond float16 either way, of neighbouring tokens too."""
    tensors = tensors_of(problem_of(name, dtype=dtype), family="normal")
    backend = RawKernelMmaBackend(DEVICE)
    for low, high in ((-60, -40), (-30, 9)) if kind == "v" else ((-60, -40), (-30, 3)):
        judged(backend, with_scales(tensors, kind, powers(tensors, low, high)))


@pytest.mark.parametrize("name", OF_TOKENS)
def test_kernels_decode_mma_rows_weigh_float16_with_all_its_bits(name: str) -> None:
    """One key has all the weight: what is lost of weight times scale is lost of the output."""
    problem = problem_of(name, dtype="float16", num_qo_heads=8, num_kv_heads=8)
    tensors = tensors_of(problem, batch=Batch(kv_lens=(1,) * 12))
    judged(RawKernelMmaBackend(DEVICE), tensors)


@pytest.mark.parametrize("name", TILE_ROWS)
def test_kernels_decode_mma_rows_show_a_scale_that_is_no_number(name: str) -> None:
    """Of a token that is seen, and no other's: the rest of its row keeps every bit."""
    problem = problem_of(name, num_qo_heads=2, head_dim=64, page_size=64)
    tensors = tensors_of(problem, batch=Batch(kv_lens=(40, 40)), kv_layout="NHD", interleaved=False)
    page = int(tensors.layout.block_table[1, 0])
    plain = judged(RawKernelMmaBackend(DEVICE), tensors)
    pool = tensors.pool.with_storage(tensors.pool.storage.copy())
    assert problem.kv_format is not None
    pool.v[page, 17, 1, problem.kv_format.scales_at(64) :] = 0xFF
    broken = attend(RawKernelMmaBackend(DEVICE), replace(tensors, pool=pool))
    found, kept = (decode(result.out, problem.storage) for result in (broken, plain))
    assert np.isnan(found[1, 1]).all()
    np.testing.assert_array_equal(found[0], kept[0])
    np.testing.assert_array_equal(found[1, 0], kept[1, 0])
    assert broken.lse is not None
    np.testing.assert_array_equal(broken.lse, plain.lse)


@pytest.mark.parametrize("head_dim", [16, 80, 96])
def test_kernels_decode_mma_rows_are_not_changed_by_what_fills_them_up(head_dim: int) -> None:
    """Behind scales that fill no word lie those of the blocks that a chunk of zeros stands for."""
    problem = problem_of("nvfp4", head_dim=head_dim)
    assert problem.kv_format is not None
    tensors = tensors_of(problem)
    plain = bits(judged(RawKernelMmaBackend(DEVICE), tensors))
    pool = tensors.pool.with_storage(tensors.pool.storage.copy())
    fill = ~problem.kv_format.used(head_dim)
    assert fill.any()
    for view in (pool.k, pool.v):
        view[..., fill] = 0xFF
    assert bits(attend(RawKernelMmaBackend(DEVICE), replace(tensors, pool=pool))) == plain


# --- what is read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_dim", [16, 80, 128, 192])
@pytest.mark.parametrize("name", TILE_ROWS)
def test_kernels_decode_mma_rows_are_read_once_without_bank_conflicts(name: str, head_dim: int) -> None:
    problem = problem_of(name, num_qo_heads=8, head_dim=head_dim, page_size=16, dtype="float16")
    assert problem.kv_format is not None
    for q_lens in (None, (1, 8, 3, 2)):
        device = counting_device()
        batch = Batch(kv_lens=(100, 33, 0, 64), q_lens=q_lens)
        backend = RawKernelMmaBackend(device, blocks=5)
        backend.run(backend.plan(tensors_of(problem, batch=batch)))
        counted = device.counters["paged_decode"]
        assert counted.totals().bank_conflicts == 0
        if q_lens is None:
            tokens = sum(batch.kv_lens) * problem.num_kv_heads
            assert counted.loaded_bytes("k", "v") == 2 * tokens * problem.row_units("k")


@pytest.mark.parametrize("name", TILE_ROWS)
def test_kernels_decode_mma_rows_touch_nothing_but_their_own(name: str) -> None:
    """Every access looked at: bounds, alignment, bytes that nobody wrote, races; the bits are the same."""
    batch = Batch(kv_lens=(0, 1, 64, 130, 65, 3), q_lens=(1, 2, 8, 7, 0, 8))
    tensors = tensors_of(problem_of(name, head_dim=80, window=50), batch=batch, tail="int-max")
    device = CheckedDevice()
    found = bits(judged(RawKernelMmaBackend(device, blocks=3), tensors))
    assert device.findings == []
    assert found == bits(judged(RawKernelMmaBackend(DEVICE, blocks=3), tensors))


def test_kernels_decode_mma_rows_begin_at_multiples_of_4_bytes() -> None:
    tensors = tensors_of(problem_of("int8-token-head"))
    backend = RawKernelMmaBackend(DEVICE)
    plain = bits(judged(backend, tensors))
    storage = tensors.pool.storage
    room = np.zeros(storage.size + 20, np.uint8)
    start = -room.ctypes.data % 16 + 4
    moved = room[start : start + storage.size].reshape(storage.shape)
    moved[...] = storage
    assert bits(attend(backend, replace(tensors, pool=tensors.pool.with_storage(moved)))) == plain


# --- what is refused ----------------------------------------------------------------------------------------


def refused(problem: Problem, **fields: Any) -> str:
    with pytest.raises(Unsupported) as error:
        RawKernelMmaBackend(DEVICE).plan(tensors_of(problem, **fields))
    return str(error.value)


def test_kernels_decode_mma_rows_refuse_what_the_decode_kernel_does_not_take() -> None:
    problem = problem_of("nvfp4")
    prompts = Batch(kv_lens=(20, 20), q_lens=(9, 1))
    assert re.search(
        r"no more than 8 query tokens a sequence over a cache of nvfp4", refused(problem, batch=prompts)
    )
    assert "no keys and values apart in a cache of nvfp4" in refused(problem, row_gaps=(4, 0))
    assert "head_dim 40 is not a multiple of 16" in refused(replace(problem, head_dim=40))
    for name in ("mxfp8", "e4m3-packed-128", "int8", "e5m2"):
        with pytest.raises(Unsupported):
            RawKernelMmaBackend(DEVICE).plan(tensors_of(Problem(**{**vars_of(problem), "kv_dtype": name})))


def vars_of(problem: Problem) -> dict[str, Any]:
    return {
        name: getattr(problem, name)
        for name in ("num_qo_heads", "num_kv_heads", "head_dim", "page_size", "dtype")
    }


def test_kernels_decode_mma_rows_refuse_a_cache_between_words() -> None:
    tensors = tensors_of(problem_of("int4-token-head"))
    storage = tensors.pool.storage
    room = np.zeros(storage.size + 20, np.uint8)
    start = -room.ctypes.data % 16 + 2
    moved = room[start : start + storage.size].reshape(storage.shape)
    backend = RawKernelMmaBackend(DEVICE)
    with pytest.raises(InvalidCase, match=r"address of keys .* must be a multiple of 4 bytes"):
        backend.plan(replace(tensors, pool=tensors.pool.with_storage(moved)))
