# SPDX-License-Identifier: Apache-2.0
"""Every kernel compiles for every architecture with no GPU."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import re
import struct
from pathlib import Path

import pytest

from pabench.device.base import KernelSource
from pabench.device.emulated import LIMITS
from pabench.device.nvrtc import (
    ARCHITECTURES,
    compile_cubin,
    header_key,
    nvrtc_options,
    nvrtc_version,
    whole_image,
)
from pabench.device.ptxas import parse_functions
from pabench.errors import CompileError, EnvironmentRefused
from pabench.kernels.decode import decode_instance, decode_shape
from pabench.kernels.features import E4M3_CACHE
from pabench.kernels.instances import kernel_instances
from pabench.kernels.static_sources import file_sources
from pabench.kernels.static_table import compile_one
from pabench.resources import resource_dir

KERNELS_CUDA = resource_dir("kernels_cuda")


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


def shaped(file: str, head_dim: int, dtype: int, vec: int) -> KernelSource:
    shape = {"PAB_HEAD_DIM": head_dim, "PAB_HEAD_DIM_V": head_dim}
    return source(file, **shape, PAB_DTYPE=dtype, PAB_VEC=vec, PAB_WARPS=4)


FILES = sorted({one.file for one in kernel_instances()})


@needs_nvrtc
@pytest.mark.parametrize(
    ("file", "architecture"),
    [
        pytest.param(file, architecture, marks=() if (place - turn) % 4 == 0 else pytest.mark.nightly)
        for place, file in enumerate(FILES)
        for turn, architecture in enumerate(ARCHITECTURES)
        if (place + turn) % 2 == 0
    ],
)
@pytest.mark.slow
def test_nvrtc_compiles_our_kernels_without_a_spill(file: str, architecture: str) -> None:
    """A few instances on every other architecture, other ones on each; ``make kernels`` compiles all."""
    instances = [
        one for one in file_sources(KERNELS_CUDA / file, include_dir=KERNELS_CUDA) if one.suits(architecture)
    ]
    first = ARCHITECTURES.index(architecture)
    step = max(1, len(instances) // (2 if file == "paged_prefill.cu" else 4))  # these take seconds each
    for instance in instances[first % step :: step]:
        result = compile_one(instance, architecture)
        assert result.passed, (instance.label, result)
        assert result.warnings == ()
        assert {row.usage.name for row in result.rows} == set(instance.entries)
        for row in result.rows:
            assert row.occupancy is not None
            attends = row.usage.name in ("paged_decode", "paged_prefill")
            promised = instance.source.defines.get("PAB_BLOCKS", "1") if attends else "1"
            assert row.occupancy.blocks_per_sm >= int(promised)
            if file == "page_alloc_scan.cu":
                assert row.usage.registers <= 64  # so that a block may have 1024 threads


@needs_nvrtc
@pytest.mark.parametrize(
    ("file", "architecture", "head_dim", "count"),
    [
        ("paged_decode.cu", "sm_80", 256, 1),
        ("paged_prefill.cu", "sm_100a", 112, 2),
        ("paged_prefill.cu", "sm_100a", 128, 2),
        ("paged_prefill.cu", "sm_120", 128, 2),
    ],
)
def test_nvrtc_leaves_room_to_the_tightest_kernels(
    file: str, architecture: str, head_dim: int, count: int
) -> None:
    """These spilled with one build of NVRTC and not with the next, so they keep a few registers free."""
    instances = [
        one
        for one in file_sources(KERNELS_CUDA / file, include_dir=KERNELS_CUDA)
        if one.suits(architecture)
        and one.label.startswith(f"bfloat16 head_dim {head_dim} ")
        and one.label.endswith("with features")
    ]
    assert len(instances) == count
    for instance in instances:
        for row in compile_one(instance, architecture).rows:
            assert row.usage.spill_bytes == 0
            assert row.usage.registers <= 250, (instance.label, row.usage)


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_keeps_all_formats_of_rows_in_registers(architecture: str) -> None:
    """Divisions of doubles are calls, around which registers are short: with three in a loop some spilled."""
    (instance,) = [
        one
        for one in file_sources(KERNELS_CUDA / "kv_append.cu", include_dir=KERNELS_CUDA)
        if one.label.startswith("bfloat16 ") and one.label.endswith("into rows of any format")
    ]
    result = compile_one(instance, architecture)
    assert result.warnings == ()
    assert [row.usage.spill_bytes for row in result.rows if row.entry] == [0, 0]


@needs_nvrtc
@pytest.mark.parametrize("head_dim", [16, 32, 48])
def test_nvrtc_compiles_decode_of_e4m3_for_small_head_dims(head_dim: int) -> None:
    """Their rows are so short that a block copies more of them at once than a tile has."""
    shape = decode_shape(head_dim, LIMITS, cached_bytes=1)
    instance = decode_instance(head_dim, "float16", shape, 2, E4M3_CACHE)
    source = KernelSource(
        path=KERNELS_CUDA / instance.file,
        include_dir=KERNELS_CUDA,
        defines={name: str(value) for name, value in instance.defines.items()},
    )
    assert compile_cubin(source, "sm_80").image.startswith(b"\x7fELF")


@needs_nvrtc
@pytest.mark.parametrize(("head_dim", "vec"), [(5, 1), (6, 2), (1, 1), (16, 8), (127, 1), (254, 2)])
def test_nvrtc_compiles_decode_for_odd_head_dims(head_dim: int, vec: int) -> None:
    cubin = compile_cubin(shaped("paged_decode_simple.cu", head_dim, 1, vec), "sm_90a")
    assert cubin.image.startswith(b"\x7fELF")
    functions = parse_functions(cubin.log)
    assert [function.name for function in functions] == ["paged_decode_merge", "paged_decode_simple"]
    assert sum(function.spill_bytes + function.stack_bytes for function in functions) == 0


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_binary_is_whole(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last byte, which CuPy takes for the end of a text; asked of the library itself."""
    from cupy.cuda import nvrtc as library

    direct: list[bytes] = []
    destroy = library.destroyProgram

    def keep(program: int) -> None:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        nvrtc = ctypes.CDLL(next(line.split()[-1] for line in maps if "libnvrtc.so" in line))
        size = ctypes.c_size_t()
        assert nvrtc.nvrtcGetCUBINSize(ctypes.c_void_p(program), ctypes.byref(size)) == 0
        image = ctypes.create_string_buffer(size.value)
        assert nvrtc.nvrtcGetCUBIN(ctypes.c_void_p(program), image) == 0
        direct.append(image.raw)
        destroy(program)

    monkeypatch.setattr(library, "destroyProgram", keep)
    for instance in (source("page_copy.cu", PAB_UNIT=16), shaped("kv_append.cu", 64, 1, 4)):
        assert compile_cubin(instance, architecture).image == direct.pop()


def elf(size: int, *, phoff: int = 0, phnum: int = 0, shoff: int = 0, shnum: int = 0) -> bytes:
    """A file of this size with a head of an ELF file."""
    head = (
        b"\x7fELF\x02\x01" + bytes(26) + struct.pack("<QQIHHHHH", phoff, shoff, 0, 64, 56, phnum, 64, shnum)
    )
    return (head + b"\x01" * size)[:size]


def test_nvrtc_binary_is_mended_by_what_its_head_says() -> None:
    whole = elf(400, phoff=344, phnum=1, shoff=100, shnum=2)
    assert whole_image(whole) == whole
    assert whole_image(whole[:-1]) == whole[:-1] + b"\0"
    sections_last = elf(299, phoff=64, phnum=1, shoff=172, shnum=2)
    assert whole_image(sections_last) == sections_last + b"\0"
    longer = elf(500, shoff=100, shnum=2)
    assert whole_image(longer) == longer
    for broken in (b"", b"\x7fELF", b"text" * 50, whole[:-2]):
        with pytest.raises(EnvironmentRefused, match="NVRTC's binary is not whole"):
            whole_image(broken)


@needs_nvrtc
@pytest.mark.parametrize("name", ["collectives", "blocks", "wrong", "numbers", "matrix", "swizzle"])
def test_nvrtc_knows_every_intrinsic_of_the_emulation(name: str) -> None:
    """The test kernels use the whole header; both sides of it must offer the same."""
    path = Path(__file__).resolve().parents[1] / "support" / "cuda" / f"{name}.cu"
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
        compile_cubin(shaped("kv_append.cu", 64, 0, 4), "sm_999")
    with pytest.raises(CompileError, match=r"none\.cu cannot be read"):
        compile_cubin(KernelSource(path=tmp_path / "none.cu", include_dir=KERNELS_CUDA), "sm_80")


@needs_nvrtc
def test_nvrtc_version_tells_builds_apart() -> None:
    version = nvrtc_version()
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    # where a toolkit is installed, CuPy may prefer its library to that of the wheel
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    if re.search(r"site-packages/nvidia/cu13/lib/libnvrtc\.so", mapped):
        assert version == importlib.metadata.version("nvidia-cuda-nvrtc")


@needs_nvrtc
def test_nvrtc_version_without_a_build_is_the_one_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from cupy.cuda import nvrtc as library

    monkeypatch.setattr(library, "getPTX", lambda program: b"// of somebody else, V1.2.3\n.version 9.0\n")
    monkeypatch.setattr(library, "getVersion", lambda: (13, 7))
    assert nvrtc_version.__wrapped__() == "13.7"


@needs_nvrtc
def test_nvrtc_that_compiles_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from cupy.cuda import nvrtc as library

    real = library.compileProgram
    monkeypatch.setattr(library, "compileProgram", lambda program, options: real(program, ["--arch=none"]))
    with pytest.raises(EnvironmentRefused, match=r"^NVRTC \d+\.\d+ does not work: .*--arch=none") as caught:
        nvrtc_version.__wrapped__()
    assert caught.value.exit_code == 7


def test_nvrtc_options_are_in_a_fixed_order() -> None:
    defines = {"B": "2", "A": "(1 + 2)"}
    own = KernelSource(path=Path("/a folder/k.cu"), include_dir=Path("/a folder"), defines=defines)
    folders = ("-I/a folder", f"-I{KERNELS_CUDA}")
    expected = ("--std=c++17", *folders, "-DA=(1 + 2)", "-DB=2", "--gpu-architecture=sm_100a")
    assert nvrtc_options(own, "sm_100a") == expected
    elsewhere = KernelSource(path=Path("/b/k.cu"), include_dir=KERNELS_CUDA)
    assert nvrtc_options(elsewhere) == ("--std=c++17", f"-I{KERNELS_CUDA}", "-I/b")


@pytest.mark.parametrize("architecture", ["90", "sm_9", "sm_90x", "sm_90a ", "SM_90", ""])
def test_nvrtc_options_refuse_an_architecture(architecture: str) -> None:
    with pytest.raises(CompileError, match=r"^architecture '.*': must read like sm_90a$"):
        nvrtc_options(source("kv_append.cu"), architecture)


def test_nvrtc_header_key_follows_text_and_name(tmp_path: Path) -> None:
    (tmp_path / "pab").mkdir()
    (tmp_path / "beside").mkdir()
    own = KernelSource(path=tmp_path / "beside" / "k.cu", include_dir=tmp_path)
    header = tmp_path / "pab" / "a.cuh"
    header.write_text("1")
    keys = [header_key(own)]
    header.write_text("2")
    keys.append(header_key(own))
    header.rename(tmp_path / "pab" / "b.cuh")
    keys.append(header_key(own))
    (tmp_path / "pab" / "b.cuh").rename(tmp_path / "b.cuh")
    keys.append(header_key(own))
    (tmp_path / "beside" / "more.h").write_text("")
    keys.append(header_key(own))
    assert len(set(keys)) == 5
    with pytest.raises(CompileError, match=r"headers beside .* cannot be read"):
        header_key(KernelSource(path=tmp_path / "none" / "k.cu", include_dir=tmp_path))


def test_nvrtc_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentRefused, match="CuPy, which is missing") as caught:
        compile_cubin(shaped("kv_append.cu", 64, 0, 4), "sm_80")
    assert caught.value.exit_code == 7
    assert caught.value.hint == "pip install pabench[nvrtc]"
