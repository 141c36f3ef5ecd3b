# SPDX-License-Identifier: Apache-2.0
"""``pabench kernels``: the table, what makes it fail, kernels from elsewhere, bad requests."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pabench.cli.main import run
from pabench.device import nvrtc
from pabench.kernels import static_table
from pabench.kernels.instance import KernelEntry
from pabench.kernels.instances import kernel_instances
from pabench.kernels.static_sources import StaticSource, file_sources
from pabench.resources import resource_dir
from tests.device.test_nvrtc import needs_nvrtc

KERNELS_CUDA = resource_dir("kernels_cuda")
SPILLS = """
extern "C" __global__ void __launch_bounds__(256, 8) heavy(float* out, const float* in, int n) {
  float x[200];
  for (int i = 0; i < 200; ++i) x[i] = in[i * n + threadIdx.x];
  float sum = 0;
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < 200; ++i) x[i] = sum += x[i] * in[(threadIdx.x + i) % 1000];
  out[threadIdx.x] = sum;
}
"""
FINE = """#include "beside.h"
extern "C" __global__ void mine(float* out) {
  __shared__ float tile[WIDTH];
  int unused;
  tile[threadIdx.x] = out[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[WIDTH - 1 - threadIdx.x] + ADDED;
}
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PABENCH_CACHE", str(tmp_path_factory.getbasetemp() / "ptxas-cache"))


def kernels(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    assert run(["kernels", *map(str, words)]) == code
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def table(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kernels(capsys, *words, "--json", code=code))
    return found


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    (tmp_path / "beside.h").write_text("#define ADDED 1.0f\n")
    path = tmp_path / "mine.cu"
    path.write_text(FINE)
    return path


@needs_nvrtc
def test_kernels_command_shows_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    found = table(capsys, "--kernel", "page_alloc_scan.cu", "--arch", "sm_80,sm_120")
    assert (found["passed"], found["architectures"]) == (True, ["sm_80", "sm_120"])
    # blocks of 64 to 1024 threads, with a decode plan, with groups, or without either
    assert len(found["rows"]) == 5 * 3 * 2
    row = next(r for r in found["rows"] if r["instance"] == "1024 threads" and r["arch"] == "sm_80")
    figures = {"threads": 1024, "dynamic_shared_bytes": 66560, "static_shared_bytes": 0, "barriers": 1}
    assert figures.items() <= row.items()
    assert row["kernel"] == "page_alloc_extend"
    # a block of 1024 threads leaves room for no second one above 32 registers
    assert 32 < row["registers"] <= 64
    assert (row["ctas_per_sm"], row["limited_by"], row["warps_share"]) == (1, "registers", 0.5)
    assert found["warnings"] == found["errors"] == []


@needs_nvrtc
def test_kernels_command_table_ends_in_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    out = kernels(capsys, "--kernel", "page_alloc_scan.cu", "--arch", "sm_90a")
    rows, summary, verdict = out.strip().split("\n\n")
    assert len(rows.splitlines()) == 1 + 15
    assert rows.splitlines()[0].split()[:4] == ["kernel", "instance", "arch", "regs"]
    assert len(summary.splitlines()) == 1 + 1
    said = "15 of 15 compilations, 15 functions, 0 warnings, 0 failures"
    assert re.fullmatch(rf"{said} \(NVRTC \d+\.\d+\.\d+\)", verdict)


@needs_nvrtc
def test_kernels_command_fails_on_a_spill_and_says_how_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "heavy.cu"
    path.write_text(SPILLS)
    words = ("--kernel", path, "--arch", "sm_80", "--threads", "256")
    (row,) = table(capsys, *words, code=1)["rows"]
    assert row["spills"]
    assert row["spill_store_bytes"] > 100
    assert row["stack_bytes"] >= row["spill_store_bytes"] // 4
    assert row["ctas_per_sm"] == 8
    line = next(line for line in kernels(capsys, *words, code=1).splitlines() if line.startswith("FAILED"))
    stored = f"{row['spill_store_bytes']} bytes stored, {row['spill_load_bytes']} loaded a thread"
    assert line == f"FAILED heavy, no macros, sm_80: spills {stored}"


@needs_nvrtc
def test_kernels_command_counts_the_spills_of_a_device_function(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "outer.cu"
    body = SPILLS.replace(
        'extern "C" __global__ void __launch_bounds__(256, 8)', "__noinline__ __device__ void"
    )
    path.write_text(
        body
        + 'extern "C" __global__ void __launch_bounds__(256, 8)'
        + " outer(float* o, float* i, int n) { heavy(o, i, n); }"
    )
    entry, helper = table(capsys, "--kernel", path, "--arch", "sm_80", "--threads", 256, code=1)["rows"]
    assert (entry["kernel"], entry["spills"], entry["threads"]) == ("outer", False, 256)
    assert ("heavy" in helper["kernel"], helper["spills"], helper["ctas_per_sm"]) == (True, True, None)


@needs_nvrtc
def test_kernels_command_allows_what_the_table_allows(tmp_path: Path) -> None:
    path = tmp_path / "heavy.cu"
    path.write_text(SPILLS)
    (source,) = file_sources(path, include_dir=KERNELS_CUDA)
    spilled = static_table.compile_one(source, "sm_80").rows[0].usage.spill_bytes
    for allowed, passed in ((spilled, True), (spilled - 1, False)):
        entry = KernelEntry(name="heavy", threads=256, allowed_spill_bytes=allowed)
        known = StaticSource(source=source.source, label="", entries={"heavy": entry})
        assert static_table.compile_one(known, "sm_80").passed is passed


@needs_nvrtc
def test_kernels_command_takes_a_kernel_with_macros_and_headers_beside_it(
    own_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--kernel", own_file, "--arch", "sm_90a", "--define", "WIDTH=256")
    found = table(capsys, *words, "--threads", 256, "--shared", 2048)
    (row,) = found["rows"]
    assert (row["instance"], row["threads"]) == ("WIDTH=256", 256)
    assert (row["static_shared_bytes"], row["dynamic_shared_bytes"]) == (1024, 2048)
    (warning,) = found["warnings"]
    assert 'mine.cu(4): warning #177-D: variable "unused" was declared' in warning["text"]
    (bare,) = table(capsys, *words)["rows"]
    assert (bare["threads"], bare["ctas_per_sm"]) == (None, None)
    assert "1 warnings, 0 failures" in kernels(capsys, *words)


@needs_nvrtc
def test_kernels_command_reports_a_compile_error_and_goes_on(
    own_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--kernel", own_file, "--kernel", "page_alloc_scan.cu", "--arch", "sm_80")
    found = table(capsys, *words, code=1)
    (error,) = found["errors"]
    assert 'mine.cu(3): error: identifier "WIDTH" is undefined' in error["text"]
    assert len(found["rows"]) == 15
    out = kernels(capsys, *words, code=1)
    assert 'FAILED mine.cu for sm_80 does not compile: mine.cu(3): error: identifier "WIDTH"' in out


@needs_nvrtc
def test_kernels_command_takes_a_copy_of_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(KERNELS_CUDA / "pab", copy / "pab")
    # renamed, and known by its entry points
    shutil.copy(KERNELS_CUDA / "page_alloc_scan.cu", copy / "other.cu")
    assert len(table(capsys, "--kernels", copy, "--arch", "sm_80")["rows"]) == 15
    (copy / "other.cu").unlink()
    (copy / "page_alloc_scan.cu").write_text('extern "C" __global__ void page_alloc_free() {}\n')
    found = table(capsys, "--kernels", copy, "--arch", "sm_80", code=1)
    assert {error["text"] for error in found["errors"]} == {
        "page_alloc_scan.cu has no entry point page_alloc_extend"
    }


@needs_nvrtc
def test_kernels_command_keeps_logs_by_content(
    own_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled: list[str] = []
    real = nvrtc.compile_cubin

    def counting(source: Any, architecture: str) -> Any:
        compiled.append(architecture)
        return real(source, architecture)

    monkeypatch.setattr(nvrtc, "compile_cubin", counting)
    words = ("--kernel", own_file, "--define", "WIDTH=64", "--arch", "sm_80")
    first = kernels(capsys, *words)
    assert kernels(capsys, *words) == first
    assert compiled == ["sm_80"]
    (own_file.parent / "beside.h").write_text("#define ADDED 2.0f\n")
    kernels(capsys, *words)
    kernels(capsys, *words[:-1], "sm_90a")
    assert compiled == ["sm_80", "sm_80", "sm_90a"]


BAD = {
    "unknown architecture": (["--arch", "sm_9000"], 4, "unknown architecture 'sm_9000'"),
    "no such folder": (["--kernels", "absent"], 4, "--kernels absent: no such folder"),
    "empty folder": (["--kernels", "{tmp}"], 4, "holds no .cu file"),
    "no such file": (["--kernel", "absent.cu"], 4, "kernel file absent.cu cannot be read"),
    "macro": (
        ["--kernel", "kv_append.cu", "--define", "1X=2"],
        4,
        "--define '1X=2': must read like NAME=VALUE",
    ),
    "macros of ours": (["--define", "X=2"], 4, "name it with --kernel"),
    "threads": (["--kernel", "kv_append.cu", "--threads", "2000"], 4, "not in the range 1<=x<=1024"),
    "shared alone": (["--kernel", "kv_append.cu", "--shared", "8"], 4, "--shared needs --threads"),
}


@pytest.mark.parametrize("name", BAD)
def test_kernels_command_bad_request_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, code, message = BAD[name]
    assert run(["kernels", *(word.replace("{tmp}", str(tmp_path)) for word in words)]) == code
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert message in said.err


def test_kernels_command_without_nvrtc_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run(["kernels"]) == 7
    assert "CuPy, which is missing (pip install pabench[nvrtc])" in capsys.readouterr().err


@needs_nvrtc
def test_kernels_command_with_an_old_nvrtc_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cupy.cuda import nvrtc as library

    monkeypatch.setattr(library, "getSupportedArchs", lambda: (80, 90))
    assert run(["kernels", "--arch", "sm_90a", "--arch", "sm_120"]) == 7
    assert "does not compile for sm_120, only for 80, 90" in capsys.readouterr().err


def test_kernels_instances_are_told_apart_by_file_and_macros() -> None:
    instances = kernel_instances()
    assert len({(one.file, *sorted(one.defines.items())) for one in instances}) == len(instances)
    assert {one.file for one in instances} == {path.name for path in KERNELS_CUDA.glob("*.cu")}
