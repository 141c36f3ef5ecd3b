# SPDX-License-Identifier: Apache-2.0
"""A bare file takes every feature that a class can: as parameters behind the others, in one order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.device.emulated import EmulatedDevice
from pabench.errors import InvalidCase, PabenchError, UnknownName, UsageError
from pabench.judge.verdict import Verdict, judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.masks import MASKS
from pabench.problem.pool import KvPool, pool_shape
from pabench.subjects.backends.base import attend
from pabench.subjects.registry import load_backend
from tests.subjects.backends.test_cuda_source import edit
from tests.subjects.backends.test_function_features import BY_SEQUENCE, CASES, case_of

SOURCE = Path(__file__).resolve().parents[2] / "support" / "cuda" / "featured.cu"
LATENT: dict[str, Any] = {"num_qo_heads": 4, "num_kv_heads": 1, "head_dim": 16, "head_dim_v": 8}
MORE = {
    "values of their own length": case_of(head_dim_v=8, page_gaps=(3, 5)),
    "latent": Case(
        problem=Problem(page_size=4, latent=True, sm_scale=0.25, soft_cap=2.0, **LATENT),
        batch=Batch(kv_lens=(3, 40)),
    ),
    "plain": case_of(),
}


@pytest.fixture(scope="module")
def device() -> EmulatedDevice:
    return EmulatedDevice()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "kernel.cu"
    path.write_text(SOURCE.read_text(encoding="utf-8"), encoding="utf-8")
    return path


def verdict(path: Path, device: EmulatedDevice, case: Case) -> Verdict:
    backend, tensors = load_backend(str(path), device), build_tensors(case)
    output = attend(backend, tensors)
    return judge(tensors, output.out, output.lse, backend.profile)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(name for name in CASES if name != "kv_dtype"), *MORE])
def test_cuda_source_with_every_feature_is_right(device: EmulatedDevice, name: str) -> None:
    found = verdict(SOURCE, device, {**CASES, **MORE}[name])
    assert found.passed, found.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("soft_cap", "soft_cap * tanh_from_exp(logit / soft_cap)", "logit"),
        ("alibi_slopes", "alibi_slopes[head] *", "0.0f *"),
        ("sinks", "if (sinks[head] > minus_infinity())", "if (false)"),
        ("k_scale", "sm_scale * k_scale[kv_head]", "sm_scale"),
        ("v_scale", "* v_scale[kv_head] :", ":"),
        ("q_scale", "* q_scale[kv_head]", ""),
        ("qo_indptr", "while (qo_indptr[sequence + 1] <= token_row) ++sequence", "sequence = 0"),
        (
            "window",
            "if (!mask[token_row * mask_stride + token]) continue;",
            "if (token > position) continue;",
        ),
    ],
)
def test_cuda_source_gets_values_that_matter(
    device: EmulatedDevice, source: Path, name: str, before: str, after: str
) -> None:
    edit(source, before, after)
    assert not verdict(source, device, CASES[name]).passed


READS_E5M2 = """#if PAB_E5M2
#define PAB_ROWS 1  // bytes
#endif
#include "pab/storage.cuh"
#if PAB_E5M2
PAB_FN float to_float(unsigned char bits) { return pab::half_to_float(static_cast<pab::u16>(bits << 8)); }
#endif"""


@pytest.mark.slow
@pytest.mark.parametrize("shift", [8, 7])
def test_cuda_source_is_compiled_for_a_format_of_the_table(
    device: EmulatedDevice, source: Path, shift: int
) -> None:
    edit(source, "formats=e4m3", "formats=e4m3,e5m2")
    edit(source, '#include "pab/storage.cuh"', READS_E5M2.replace("<< 8", f"<< {shift}"))
    assert verdict(source, device, CASES["kv_dtype"]).passed is (shift == 8)


@pytest.mark.slow
@pytest.mark.parametrize("sequence", ["sequence", "0"])
def test_cuda_source_gets_scales_of_each_sequence(
    device: EmulatedDevice, source: Path, sequence: str
) -> None:
    edit(source, "sinks,fp8-q", "sinks,fp8-q,sequence-scales")
    for kind in "kvq":
        edit(source, f"const float* {kind}_scale", f"const float* {kind}_scale, long long {kind}_step")
        edit(source, f"{kind}_scale[kv_head]", f"{kind}_scale[{sequence} * {kind}_step + kv_head]")
    assert verdict(source, device, BY_SEQUENCE).passed is (sequence == "sequence")


def test_cuda_source_declares_features(device: EmulatedDevice, source: Path) -> None:
    can = load_backend(str(source), device).capabilities
    assert {"window", "sinks", "fp8-kv", "latent-cache", *MASKS} <= can.features
    assert {"prefill", "speculative", "append"} <= can.operations
    edit(source, "masks=all", "latent=true")
    assert load_backend(str(source), device).capabilities.requires == {"latent-cache"}


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_cuda_source_appends(device: EmulatedDevice, layout: str) -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=2, head_dim=4, page_size=4)
    storage = np.zeros(pool_shape(problem, 3, kv_layout=layout, interleaved=True), np.float32)
    pool = KvPool(storage=storage, kv_layout=layout, interleaved=True)
    new = np.arange(16, dtype=np.float32).reshape(2, 2, 4)
    backend = load_backend(str(SOURCE), device)
    written = pool.with_storage(backend.append(pool, "float32", new, new + 50, np.array([5, -1])))
    assert not storage.any()
    k, v = (view if layout == "NHD" else view.swapaxes(1, 2) for view in (written.k, written.v))
    assert np.array_equal(k[1, 1], new[0])
    assert np.array_equal(v[1, 1], new[0] + 50)
    assert (k.sum(), v.sum()) == (new[0].sum(), (new[0] + 50).sum())


@pytest.mark.parametrize(
    ("before", "after", "error", "said"),
    [
        ("masks=all", "masks=trees", UnknownName, "unknown name in masks of kernel.cu: 'trees'"),
        ("masks=all", "mask=all", UnknownName, "'mask'; did you mean 'masks'"),
        ("formats=e4m3", "formats=e4m4", UnknownName, "'e4m4'; did you mean 'e4m3'"),
        ("soft-cap,", "softcap,", UnknownName, "'softcap'; did you mean 'soft-cap'"),
        ("prefill=true", "prefill=yes", InvalidCase, "prefill = 'yes': must be true or false"),
        ("tanh_error=2e-6", "tanh_error=small", InvalidCase, "tanh_error = 'small': must be a number"),
        ("tanh_error=2e-6", "tanh_error", UsageError, "cannot read 'tanh_error'"),
    ],
)
def test_cuda_source_refuses_features(
    device: EmulatedDevice, source: Path, before: str, after: str, error: type[PabenchError], said: str
) -> None:
    edit(source, before, after)
    with pytest.raises(error, match=said) as caught:
        load_backend(str(source), device)
    assert "\n" not in str(caught.value)
