# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pabench.device.emulated import EmulatedDevice
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.dtypes import Array
from pabench.subjects.backends.cuda_source import CudaSourceBackend
from tests.support.probe import DEVICE, probe

ONE_WARP = Path(__file__).resolve().parents[2] / "docs" / "examples" / "one_warp.cu"
BITS = np.arange(65536, dtype=np.uint16)


def spread(entry: str, given: Array, *outputs: Array) -> None:
    size = np.uint32(given.size)
    probe(
        "numbers",
        entry,
        given,
        *outputs,
        size,
        grid=(-(-given.size // 256), 1, 1),
        block=(256, 1, 1),
    )


def narrow(values: Array) -> tuple[Array, Array]:
    half, bf16 = np.zeros(values.size, np.uint16), np.zeros(values.size, np.uint16)
    spread("narrow", values, half, bf16)
    return half, bf16


def as_torch(bits: Array, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.int16)).view(dtype)


def test_emulated_numbers_widen_all_bit_patterns() -> None:
    half, bf16 = np.zeros(65536, np.float32), np.zeros(65536, np.float32)
    spread("widen", BITS, half, bf16)
    for got, dtype in ((half, torch.float16), (bf16, torch.bfloat16)):
        expected = as_torch(BITS, dtype).float().numpy()
        np.testing.assert_array_equal(got, expected)  # NaN where NaN
        same_sign = np.signbit(got) == np.signbit(expected)
        assert same_sign[~np.isnan(expected)].all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_emulated_numbers_narrow_like_torch(dtype: torch.dtype) -> None:
    """Every value of the type, the ties between neighbours, a float to either side of each, and more."""
    exact = as_torch(BITS, dtype).float().numpy()
    positive = np.sort(exact[np.isfinite(exact) & (exact >= 0)].astype(np.float64))
    ties = ((positive[1:] + positive[:-1]) / 2).astype(np.float32)
    top = np.float32(positive[-1])
    beyond = np.array([65519.996, 65520, 65536, 3.39e38, np.finfo(np.float32).max, top], np.float32)
    tiny = np.array([1, 2, 3, 0x7FFFFF, 0x800000, 0x8000, 0x8001], np.uint32).view(np.float32)
    points = np.concatenate([exact, ties, -ties, beyond, -beyond, tiny, -tiny])
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32)
    up, down = np.float32(np.inf), np.float32(-np.inf)
    with np.errstate(all="ignore"):
        values = np.concatenate([points, np.nextafter(points, up), np.nextafter(points, down), noise])
    got = narrow(values)[0 if dtype is torch.float16 else 1]
    expected = torch.from_numpy(values).to(dtype).view(torch.int16).numpy().view(np.uint16)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(got[number], expected[number])
    assert torch.isnan(as_torch(got[~number], dtype)).all()
    assert (~number).sum() > 100


def functions(values: Array, device: EmulatedDevice | None = None, seed: int = 0) -> list[Array]:
    outputs = [np.zeros(values.size, np.float32) for _ in range(3)]
    size = np.uint32(values.size)
    grid = (-(-values.size // 256), 1, 1)
    probe(
        "numbers",
        "functions",
        values,
        *outputs,
        size,
        grid=grid,
        block=(256, 1, 1),
        seed=seed,
        device=device or DEVICE,
    )
    return outputs


def sample() -> Array:
    rng = np.random.default_rng(2)
    return np.concatenate(
        [
            rng.uniform(-126, 127, 20_000),
            rng.uniform(-1, 1, 20_000),
            2.0 ** rng.uniform(-125, 125, 20_000),
            1 + rng.uniform(-0.4, 0.9, 20_000),
            np.arange(-126.0, 128.0),
        ]
    ).astype(np.float32)


def test_emulated_numbers_approximate_within_what_ptx_documents() -> None:
    values = sample()
    exact = values.astype(np.float64)
    ex2, lg2, rcp = (got.astype(np.float64) for got in functions(values))
    with np.errstate(all="ignore"):
        truth = np.exp2(exact)
        usual = (truth > 2.0**-125) & (truth < 2.0**127)
        error = np.abs(ex2 / truth - 1)[usual]
        assert 0.8 * 2.0**-22 < error.max() <= 2.0**-22

        truth = np.log2(exact)
        middle, outside = (exact > 0.5) & (exact < 2), ((exact > 0) & (exact <= 0.5)) | (exact >= 2)
        error = np.abs(lg2 - truth)
        assert 0.6 * 2.0**-22 < error[middle].max() <= 2.0**-22
        near_one = np.abs(exact - 1) < 0.1
        assert error[near_one].max() > 0.6 * 2.0**-22  # absolute there: no help from a small logarithm
        assert 0.6 * 2.0**-22 < (error / np.abs(truth))[outside].max() <= 2.0**-22
        assert np.isnan(lg2[exact < 0]).all()

        error = np.abs(rcp * exact - 1)[(exact != 0) & (np.abs(exact) < 2.0**125)]
        assert 0.6 * 2.0**-23 < error.max() <= 2.0**-23


def test_emulated_numbers_approximate_the_same_every_time() -> None:
    values = sample()
    first = functions(values)
    again = functions(values, EmulatedDevice(workers=3), seed=99)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))
    one_by_one = functions(values[::-1].copy())
    for a, b in zip(first, one_by_one, strict=True):
        np.testing.assert_array_equal(a.view(np.uint32), b[::-1].view(np.uint32))


def test_emulated_numbers_special_values() -> None:
    denormal = np.float32(1e-40)
    inf, nan = np.inf, np.nan
    given = np.array([-inf, inf, 0, -0.0, -150, 128, 1000, -1000, denormal, -denormal, -1, nan], np.float32)
    ex2, lg2, rcp = functions(given)
    expected = np.array([0, inf, 1, 1, 0, inf, inf, 0, 1, 1, 0.5, nan], np.float32)
    np.testing.assert_allclose(ex2, expected, rtol=2.0**-22)
    assert ex2[[2, 3, 8, 9]].tolist() == [1, 1, 1, 1]  # to the bit, says the table of special values of PTX
    expected = np.array([nan, inf, -inf, -inf, nan, 7, 9.965784284, nan, -inf, -inf, nan, nan], np.float32)
    np.testing.assert_allclose(lg2, expected, rtol=2.0**-22)
    expected = np.array([-0.0, 0, inf, -inf, -1 / 150, 1 / 128, 1e-3, -1e-3, inf, -inf, -1, nan], np.float32)
    np.testing.assert_allclose(rcp, expected, rtol=2.0**-22)
    assert np.signbit(rcp[:4]).tolist() == [True, False, False, True]
    assert not np.signbit(ex2[[0, 4, 7]]).any()
    tiny = functions(np.array([-126.5, -130, 2.0**126 * 1.5, -(2.0**127)], np.float32))
    assert tiny[0][:2].tolist() == [0, 0]  # denormal results are zeros
    assert tiny[2][2:].tolist() == [0, 0]


def test_emulated_numbers_of_arithmetic_have_the_nan_of_the_hardware() -> None:
    """Of the processor's own 0/0 the sign is set: cut to 16 bits it would be memory that nobody wrote."""
    poison = np.array([0xFFFFFFFF, 0xFF800000, 0x7F800001, 0xFFC00000, 0x7FFF7FFF], np.uint32)
    given = np.concatenate([np.array([0, -0.0, np.inf], np.float32), poison.view(np.float32)])
    out = np.zeros((given.size, 5), np.float32)
    half, bf16 = np.zeros(given.size, np.uint16), np.zeros(given.size, np.uint16)
    probe("numbers", "not_numbers", given, out, half, bf16, np.uint32(given.size), block=(32, 1, 1))
    assert [f"{bits:x}" for bits in half] == ["7fff"] * given.size
    assert [f"{bits:x}" for bits in bf16] == ["7fff"] * given.size
    assert {f"{bits:x}" for bits in out.view(np.uint32).reshape(-1)} == {"7fffffff"}


FAULTS = {
    "0 / 0": ("", "(kv_len == 0 ? 0.0f : acc[i] / sum)", "((acc[i] - acc[i]) / (sum - sum))"),
    "inf - inf": ("", "(kv_len == 0 ? 0.0f : acc[i] / sum)", "(-minus_infinity() + minus_infinity())"),
    "unwritten": ("PAB_SHARED(memory);", "acc[i] / sum", "acc[i] + reinterpret_cast<float*>(memory)[lane]"),
    "absent lane": ("", "acc[i] / sum", "acc[i] + shfl_idx(1u << lane, acc[i], lane + 1)"),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("fault", FAULTS)
def test_emulated_numbers_nan_is_not_taken_for_what_was_never_written(
    fault: str, dtype: str, tmp_path: Path
) -> None:
    text = ONE_WARP.read_text(encoding="utf-8").replace("shared_bytes=0", "shared_bytes=128")
    first, before, after = FAULTS[fault]
    assert text.count(before) == 1
    text = text.replace("  using namespace pab;\n", f"  using namespace pab;\n  {first}\n")
    (tmp_path / "kernel.cu").write_text(text.replace(before, after), encoding="utf-8")
    backend = CudaSourceBackend(tmp_path / "kernel.cu", EmulatedDevice())
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=8, dtype=dtype)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(5, 19))))
    plan = backend.plan(tensors)
    backend.run(plan)
    output = backend.fetch(plan)
    verdict = judge(tensors, output.out, output.lse, backend.profile)
    assert "the output is NaN in all dims" in verdict.text
    assert "never written" not in verdict.text
