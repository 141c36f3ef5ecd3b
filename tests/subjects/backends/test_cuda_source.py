# SPDX-License-Identifier: Apache-2.0
"""A bare .cu file as a backend."""

from pathlib import Path

import pytest

from pabench.cli.main import run
from pabench.device.emulated import EmulatedDevice
from pabench.errors import CompileError, InvalidCase, LaunchError, PabenchError, Unsupported, UsageError
from pabench.judge.verdict import Verdict, judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.subjects.backends.base import attend
from pabench.subjects.registry import is_place, load_backend

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "one_warp.cu"


@pytest.fixture(scope="module")
def device() -> EmulatedDevice:
    return EmulatedDevice()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "kernel.cu"
    path.write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    return path


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1
    path.write_text(text.replace(before, after), encoding="utf-8")


def verdict(path: Path, device: EmulatedDevice, dtype: str = "float32", layout: str = "NHD") -> Verdict:
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=24, page_size=4, dtype=dtype)
    case = Case(problem=problem, batch=Batch(kv_lens=(0, 5, 40)), poison="nan", kv_layout=layout)
    backend, tensors = load_backend(str(path), device), build_tensors(case)
    output = attend(backend, tensors)
    return judge(tensors, output.out, output.lse, backend.profile)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_cuda_source_is_judged_right(device: EmulatedDevice, dtype: str, layout: str) -> None:
    assert verdict(EXAMPLE, device, dtype, layout).passed


def test_cuda_source_is_judged_wrong(device: EmulatedDevice, source: Path) -> None:
    edit(source, "head / (num_qo_heads / num_kv_heads)", "head % num_kv_heads")
    assert not verdict(source, device).passed


@pytest.mark.parametrize(
    ("before", "after", "error", "words"),
    [
        ("threads=32", "threads=many", InvalidCase, "kernel.cu: threads = 'many': must be a whole number"),
        ("threads=32", "threads=0", InvalidCase, "threads = 0: must be"),
        ("threads=32", "thread=9", UsageError, "'thread'; did you mean 'threads'"),
        ("threads=32", "threads", UsageError, "cannot read 'threads'"),
        ("dtypes=float32,", "dtypes=float31,", PabenchError, "float31"),
        ("shared_bytes=0", "accumulation=magic", InvalidCase, "accumulation = 'magic'"),
        ("paged_decode(", "my_decode(", LaunchError, "has no kernel 'paged_decode'"),
        (", float sm_scale)", ")", CompileError, "kernel.cu"),
        ("float* lse, int num_seqs,", "float* lse,", LaunchError, "takes 16 arguments, got 17"),
        ("shfl_xor(", "shfl_sideways(", CompileError, "shfl_sideways"),
    ],
)
def test_cuda_source_refuses(
    device: EmulatedDevice, source: Path, before: str, after: str, error: type[PabenchError], words: str
) -> None:
    edit(source, before, after)
    with pytest.raises(error, match=words):
        verdict(source, device)


def test_cuda_source_declares_what_it_takes(device: EmulatedDevice, source: Path) -> None:
    edit(source, "dtypes=float32,float16,bfloat16", "dtypes=float32")
    with pytest.raises(Unsupported, match="no dtype float16"):
        verdict(source, device, "float16")


def test_cuda_source_that_is_no_file(device: EmulatedDevice, tmp_path: Path) -> None:
    assert is_place("backend", "anything.cu")
    with pytest.raises(UsageError, match="no such file"):
        load_backend(str(tmp_path / "none.cu"), device)
    (tmp_path / "folder.cu").mkdir()
    with pytest.raises(UsageError, match="directory"):
        load_backend(str(tmp_path / "folder.cu"), device)


@pytest.mark.slow
def test_cuda_source_runs_in_the_suite_and_replays(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(source, "token < kv_len", "token < kv_len - 1")
    folder = tmp_path / "run"
    options = ["--profile", "quick", "--device", "emulated", "-k", "normal", "--artifacts", str(folder)]
    assert run(["conformance", "--backend", str(source), *options]) == 1
    assert f"FAILED {source} decode[normal]" in capfd.readouterr().out
    (case,) = (folder / "failures").iterdir()
    assert run(["replay", str(case)]) == 4
    assert run(["replay", str(case), "--backend", str(source)]) == 1
