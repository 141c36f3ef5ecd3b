# SPDX-License-Identifier: Apache-2.0
"""Ordinary CUDA and PTX files as backends: judged, and refused in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pabench.device.base import KernelSource
from pabench.device.emulated import EmulatedDevice
from pabench.device.ptx.device import PtxDevice, named_defines
from pabench.device.ptx.source import compile_ptx
from pabench.device.registry import open_device
from pabench.errors import CompileError, LaunchError, UsageError
from pabench.judge.verdict import Verdict, judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.resources import resource_dir
from pabench.subjects.backends.base import attend
from pabench.subjects.registry import load_backend
from tests.device.ptx.test_device import needs_nvrtc

PLAIN = Path(__file__).resolve().parents[3] / "docs" / "examples" / "plain.cu"
NAIVE = """// pabench: threads=32{more}
extern "C" __global__ void paged_decode(
    const STORED* q, const STORED* k, const STORED* v, const int* block_table, const int* kv_lens,
    STORED* out, float* lse, int num_seqs, int num_qo_heads, int num_kv_heads, int head_dim, int page_size,
    int max_pages, long long page_stride, long long token_stride, long long head_stride, float sm_scale) {{
  const long long row = (long long)blockIdx.x * num_qo_heads + blockIdx.y;
  const int head = blockIdx.y / (num_qo_heads / num_kv_heads), length = kv_lens[blockIdx.x];
  const auto at = [&](int token) {{
    const long long page = block_table[blockIdx.x * max_pages + token / page_size];
    return page * page_stride + token % page_size * token_stride + head * head_stride;
  }};
  const auto logit = [&](int token) {{
    float sum = 0;
    for (int d = 0; d < head_dim; ++d) sum += (float)q[row * head_dim + d] * (float)k[at(token) + d];
    return sum * sm_scale;
  }};
  float most = -INFINITY, total = 0;
  for (int token = 0; token < length; ++token) most = fmaxf(most, logit(token));
  for (int token = 0; token < length; ++token) total += expf(logit(token) - most);
  for (int d = threadIdx.x; d < head_dim; d += 32) {{
    float sum = 0;
    for (int token = 0; token < length; ++token) sum += expf(logit(token) - most) * (float)v[at(token) + d];
    out[row * head_dim + d] = (STORED)(length ? sum / total : 0.0f);
  }}
  if (threadIdx.x == 0) lse[row] = length ? most + logf(total) : -INFINITY;
}}
"""


def verdict(path: Path, device: PtxDevice, dtype: str = "float16", head_dim: int = 32) -> Verdict:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=head_dim, page_size=16, dtype=dtype)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(0, 5, 150)), poison="nan"))
    backend = load_backend(str(path), device)
    output = attend(backend, tensors)
    return judge(tensors, output.out, output.lse, backend.profile)


def naive(tmp_path: Path, more: str = "") -> Path:
    path = tmp_path / "naive.cu"
    path.write_text(NAIVE.format(more=more), encoding="utf-8")
    return path


@needs_nvrtc
@pytest.mark.slow
def test_plain_cuda_is_judged_right() -> None:
    device = PtxDevice()
    for head_dim in (32, 33, 160):
        found = verdict(PLAIN, device, head_dim=head_dim)
        assert found.passed, found.text


@needs_nvrtc
def test_stored_is_float_without_an_include_and_a_wrong_head_is_wrong(tmp_path: Path) -> None:
    path = naive(tmp_path)
    found = verdict(path, PtxDevice(), "float32")
    assert found.passed, found.text
    text = path.read_text(encoding="utf-8")
    assert text.count("blockIdx.y / (num_qo_heads / num_kv_heads)") == 1
    path.write_text(text.replace("blockIdx.y / (num_qo_heads / num_kv_heads)", "blockIdx.y % num_kv_heads"))
    assert not verdict(path, PtxDevice(), "float32").passed


@needs_nvrtc
def test_cuda_compiled_elsewhere_runs_as_ptx(tmp_path: Path) -> None:
    kernels = resource_dir("kernels_cuda")
    source = KernelSource(path=naive(tmp_path), include_dir=kernels, defines={"STORED": "float"})
    text = compile_ptx(source, "sm_80")
    path = tmp_path / "kernel.ptx"
    path.write_text(f"// pabench: threads=32 dtypes=float32\n{text}", encoding="utf-8")
    assert verdict(path, PtxDevice(), "float32").passed
    with pytest.raises(UsageError, match="PTX does not run on device emulated"):
        load_backend(str(path), EmulatedDevice())
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="is compiled for one storage type and must say which"):
        load_backend(str(path), PtxDevice())
    path.write_text("// pabench: dtypes=float32\n" + text.replace(".target sm_80", ".target sm_90a"))
    with pytest.raises(CompileError, match=r"kernel\.ptx for sm_80: it is PTX for sm_90a"):
        verdict(path, PtxDevice(), "float32")
    path.write_text("// pabench: dtypes=float32\n" + text.replace("paged_decode(", "other("))
    with pytest.raises(LaunchError, match=r"kernel\.ptx has no kernel 'paged_decode'"):
        verdict(path, PtxDevice(), "float32")


def test_ordinary_cuda_on_the_emulated_device_is_told_where_it_runs() -> None:
    with pytest.raises(CompileError, match=r"plain\.cu does not compile.*add --device ptx:sm_80"):
        verdict(PLAIN, EmulatedDevice())  # type: ignore[arg-type]


def test_source_is_compiled_once_for_what_it_does_not_name(tmp_path: Path) -> None:
    path, given = naive(tmp_path), {"PAB_HEAD_DIM": "64", "PAB_DTYPE": "0", "STORED": "float"}
    source = KernelSource(path=path, include_dir=resource_dir("kernels_cuda"), defines=given)
    assert named_defines(source, path.read_text(encoding="utf-8")) == {"STORED": "float"}
    assert named_defines(source, '#include "pab/storage.cuh"\n') == given
    (tmp_path / "mine.cuh").write_text("constexpr int kDim = PAB_HEAD_DIM;\n")
    assert set(named_defines(source, '#include "mine.cuh"\n')) == {"PAB_HEAD_DIM"}


@needs_nvrtc
@pytest.mark.slow
def test_removed_barrier_is_named_with_both_lines(tmp_path: Path) -> None:
    lines = PLAIN.read_text(encoding="utf-8").splitlines()
    syncs = [at for at, line in enumerate(lines) if line.strip() == "block.sync();"]
    writes = next(at for at, line in enumerate(lines, 1) if "weights[key] = logit" in line)
    reads = next(at for at, line in enumerate(lines, 1) if "most = fmaxf(most, weights[key])" in line)
    assert syncs[1] == writes + 1
    lines[syncs[1]] = ""
    path = tmp_path / "plain.cu"
    path.write_text("\n".join(lines), encoding="utf-8")
    for source, wrong in ((PLAIN, False), (path, True)):
        device = open_device("ptx:sm_80", checked=True)
        device._collect = True  # type: ignore[attr-defined]
        passed = verdict(source, device).passed  # type: ignore[arg-type]
        told = [str(one) for one in device.findings]  # type: ignore[attr-defined]
        assert wrong or (passed and told == [])
        named = [
            one
            for one in told
            if f"write at plain.cu:{writes} " in one and f"read at plain.cu:{reads} " in one
        ]
        assert bool(named) == wrong, told[:3]
