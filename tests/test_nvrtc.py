"""Every kernel compiles for every architecture with no GPU."""

from __future__ import annotations

import importlib.util
import itertools
import re
from pathlib import Path

import pytest

from pabench.device.base import KernelSource
from pabench.device.nvrtc import ARCHITECTURES, compile_cubin, header_key, nvrtc_options
from pabench.errors import CompileError, EnvironmentRefused
from pabench.problem.dtypes import DTYPES
from pabench.resources import resource_dir

KERNELS_CUDA = resource_dir("kernels_cuda")
WIDTHS = {0: 4, 1: 8, 2: 8}
HEAD_DIMS = (16, 64, 80, 128, 256)


def installed() -> bool:
    if importlib.util.find_spec("cupy") is None or importlib.util.find_spec("nvidia") is None:
        return False
    return importlib.util.find_spec("nvidia.cu13") is not None


needs_nvrtc = pytest.mark.skipif(not installed(), reason="NVRTC is not installed: pip install pabench[nvrtc]")


def source(file: str, **defines: int) -> KernelSource:
    return KernelSource(
        path=KERNELS_CUDA / file,
        include_dir=KERNELS_CUDA,
        defines={name: str(value) for name, value in defines.items()},
    )


def shaped(file: str, head_dim: int, dtype: int, vec: int | None = None) -> KernelSource:
    width = WIDTHS[dtype] if vec is None else vec
    return source(file, PAB_HEAD_DIM=head_dim, PAB_DTYPE=dtype, PAB_VEC=width, PAB_WARPS=4)


def check(instance: KernelSource, architecture: str, entries: set[str]) -> str:
    """Compile; no entry spills; return what ptxas said."""
    cubin = compile_cubin(instance, architecture)
    assert cubin.image.startswith(b"\x7fELF")
    assert set(re.findall(r"Compiling entry function '(\w+)'", cubin.log)) == entries
    assert f"for '{architecture}'" in cubin.log
    spills = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", cubin.log
    )
    assert len(spills) == len(entries)
    assert set(spills) == {("0", "0", "0")}, cubin.log
    return cubin.log


DECODE = {"paged_decode_simple", "paged_decode_merge"}


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", WIDTHS)
def test_nvrtc_compiles_decode_for_every_architecture(architecture: str, dtype: int) -> None:
    check(shaped("paged_decode_simple.cu", 128, dtype), architecture, DECODE)


@needs_nvrtc
@pytest.mark.parametrize(("head_dim", "dtype"), list(itertools.product(HEAD_DIMS, WIDTHS)))
def test_nvrtc_compiles_decode_for_every_head_dim(head_dim: int, dtype: int) -> None:
    architecture = ARCHITECTURES[(HEAD_DIMS.index(head_dim) + dtype) % len(ARCHITECTURES)]
    check(shaped("paged_decode_simple.cu", head_dim, dtype), architecture, DECODE)


@needs_nvrtc
@pytest.mark.parametrize(("head_dim", "vec"), [(5, 1), (6, 2), (1, 1), (128, 1), (127, 1), (254, 2)])
def test_nvrtc_compiles_decode_for_narrow_loads(head_dim: int, vec: int) -> None:
    check(shaped("paged_decode_simple.cu", head_dim, 1, vec), "sm_90a", DECODE)


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_compiles_append_and_allocator(architecture: str) -> None:
    for dtype in WIDTHS:
        check(shaped("kv_append.cu", 80, dtype), architecture, {"kv_append"})
    for threads in (64, 1024):
        log = check(source("page_alloc_scan.cu", PAB_THREADS=threads), architecture, {"page_alloc_extend"})
        assert max(int(used) for used in re.findall(r"Used (\d+) registers", log)) <= 64
        entries = {"page_alloc_drop", "page_alloc_fork", "page_alloc_reset"}
        check(source("page_alloc_release.cu", PAB_THREADS=threads), architecture, entries)
    entries = {f"page_pool_{name}" for name in ("extend", "free", "batch", "churn")}
    for kind in (0, 1):
        check(source("page_alloc_pool.cu", PAB_POOL=kind), architecture, entries)
    for unit in (16, 2):
        check(source("page_copy.cu", PAB_UNIT=unit), architecture, {"page_copy"})


@needs_nvrtc
@pytest.mark.parametrize("name", ["collectives", "blocks", "wrong", "numbers"])
def test_nvrtc_knows_every_intrinsic_of_the_emulation(name: str) -> None:
    """The test kernels use the whole header; both sides of it must offer the same."""
    path = Path(__file__).parent / "kernels" / f"{name}.cu"
    cubin = compile_cubin(KernelSource(path=path, include_dir=KERNELS_CUDA), "sm_80")
    assert cubin.image.startswith(b"\x7fELF")


@needs_nvrtc
def test_nvrtc_names_file_and_line_of_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.cu"
    path.write_text('extern "C" __global__ void k(int* out) {\n  out[0] = nothing;\n}\n')
    with pytest.raises(CompileError) as caught:
        compile_cubin(KernelSource(path=path, include_dir=KERNELS_CUDA), "sm_90a")
    text = 'bad.cu for sm_90a does not compile: bad.cu(2): error: identifier "nothing" is undefined'
    assert str(caught.value) == text
    with pytest.raises(CompileError, match=r"for sm_999 does not compile: .*invalid value"):
        compile_cubin(shaped("kv_append.cu", 64, 0), "sm_999")
    with pytest.raises(CompileError, match=r"none\.cu cannot be read"):
        compile_cubin(KernelSource(path=tmp_path / "none.cu", include_dir=KERNELS_CUDA), "sm_80")


def test_nvrtc_options_are_in_a_fixed_order() -> None:
    folder = Path("/a folder")
    options = nvrtc_options(include_dir=folder, defines={"B": "2", "A": "(1 + 2)"}, architecture="sm_100a")
    expected = ("--std=c++17", "-I/a folder", "-DA=(1 + 2)", "-DB=2", "--gpu-architecture=sm_100a")
    assert options == expected
    assert nvrtc_options(include_dir=folder, defines={}) == ("--std=c++17", "-I/a folder")


@pytest.mark.parametrize("architecture", ["90", "sm_9", "sm_90x", "sm_90a ", "SM_90", ""])
def test_nvrtc_options_refuse_an_architecture(architecture: str) -> None:
    with pytest.raises(CompileError, match=r"^architecture '.*': must read like sm_90a$"):
        nvrtc_options(include_dir=Path(), defines={}, architecture=architecture)


def test_nvrtc_header_key_follows_text_and_name(tmp_path: Path) -> None:
    (tmp_path / "pab").mkdir()
    header = tmp_path / "pab" / "a.cuh"
    header.write_text("1")
    keys = [header_key(tmp_path)]
    header.write_text("2")
    keys.append(header_key(tmp_path))
    header.rename(tmp_path / "pab" / "b.cuh")
    keys.append(header_key(tmp_path))
    (tmp_path / "more.h").write_text("")
    keys.append(header_key(tmp_path))
    assert len(set(keys)) == 4


def test_nvrtc_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentRefused, match="CuPy, which is missing") as caught:
        compile_cubin(shaped("kv_append.cu", 64, 0), "sm_80")
    assert caught.value.exit_code == 7
    assert caught.value.hint == "pip install pabench[nvrtc]"


def test_nvrtc_instances_cover_all_dtypes() -> None:
    assert len(WIDTHS) == len(DTYPES)
