# SPDX-License-Identifier: Apache-2.0
"""Compiling for the emulated device: errors in one line, the cache of compiled files, no compiler."""

from __future__ import annotations

import builtins
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.cli.main import run
from pabench.device import cache, compiler, emulated
from pabench.device.base import KernelSource, Launch
from pabench.device.emulated import EmulatedDevice
from pabench.device.headers import EMULATOR
from pabench.errors import CompileError, EnvironmentRefused
from pabench.resources import resource_dir

KERNELS_CUDA = resource_dir("kernels_cuda")
ANSWER = """\
#include "pab/intrinsics.cuh"
#include "answer.cuh"
extern "C" __global__ void answer(pab::u32* out) { out[0] = ANSWER + PAB_EXTRA; }
"""


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what was compiled from now on."""
    names: list[str] = []
    compile_shared = compiler.compile_shared

    def counted(*args: Any, what: str) -> None:
        names.append(what)
        compile_shared(*args, what=what)

    monkeypatch.setattr(emulated, "compile_shared", counted)
    return names


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that holds the runtime."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "kernel.cu").write_text('extern "C" __global__ void k() {}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PABENCH_CACHE", str(folder / "cache"))
        hasty().load(KernelSource(path=folder / "kernel.cu", include_dir=KERNELS_CUDA))
    (kernel,) = (folder / "cache").glob("kernel-*.so")
    kernel.unlink()
    (runtime,) = (folder / "cache").iterdir()
    assert runtime.name.startswith("runtime-")
    return folder / "cache"


@pytest.fixture
def folder(tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a kernel and its header; the cache already holds the runtime."""
    monkeypatch.setenv("PABENCH_CACHE", str(tmp_path / "cache"))
    shutil.copytree(built, tmp_path / "cache")
    (tmp_path / "answer.cu").write_text(ANSWER)
    (tmp_path / "answer.cuh").write_text("#define ANSWER 40\n")
    return tmp_path


def hasty(kernels: Path | None = None) -> EmulatedDevice:
    """A device whose runtime compiles in a third of the time: nothing here runs for long."""
    return EmulatedDevice(kernels=kernels, flags=("-O0",))


def answer(folder: Path, *, extra: int = 2) -> int:
    source = KernelSource(
        path=folder / "answer.cu", include_dir=KERNELS_CUDA, defines={"PAB_EXTRA": str(extra)}
    )
    return result(hasty(), source)


def result(device: EmulatedDevice, source: KernelSource) -> int:
    out = np.zeros(1, np.uint32)
    device.load(source).launch(Launch(entry="answer", grid=(1, 1, 1), block=(1, 1, 1), args=(out,)))
    return int(out[0])


def refused(folder: Path, text: str) -> str:
    (folder / "bad.cu").write_text(text)
    return refused_source(KernelSource(path=folder / "bad.cu", include_dir=KERNELS_CUDA))


def refused_source(source: KernelSource) -> str:
    with pytest.raises(CompileError) as caught:
        hasty().load(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.slow
def test_emulated_build_compiles_once_and_again_after_changes(folder: Path, compiled: list[str]) -> None:
    assert answer(folder) == 42
    assert compiled == ["answer.cu"]
    assert answer(folder) == 42
    assert len(compiled) == 1
    assert answer(folder, extra=3) == 43
    assert compiled[1:] == ["answer.cu"]
    (folder / "answer.cuh").write_text("#define ANSWER 50\n")
    assert answer(folder) == 52
    assert compiled[2:] == ["answer.cu"]
    (folder / "answer.cu").write_text(ANSWER.replace("ANSWER +", "100 + ANSWER +"))
    assert answer(folder) == 152
    assert compiled[3:] == ["answer.cu"]
    left = [path.name for path in (folder / "cache").iterdir()]
    assert not [name for name in left if name.startswith(".building")]
    assert len(left) == 5


def test_emulated_build_names_file_and_line_of_an_error(folder: Path, compiled: list[str]) -> None:
    message = refused(folder, 'extern "C" __global__ void k(int* out) {\n  out[0] = nothing;\n}\n')
    assert message.startswith("bad.cu does not compile: ")
    assert f"{folder / 'bad.cu'}:2:" in message
    assert "nothing" in message
    assert [path.name for path in (folder / "cache").iterdir() if "runtime" not in path.name] == []


def test_emulated_build_says_what_a_kernel_file_must_have(folder: Path) -> None:
    assert "bad.cu has no extern" in refused(folder, "__global__ void k(int* out) {}\n")
    commented = '// extern "C" __global__ void k(\n/* extern "C" __global__ void l(int* out) {} */\n'
    assert "bad.cu has no extern" in refused(folder, commented)
    many = ", ".join(f"int a{i}" for i in range(65))
    assert "at most 64 parameters" in refused(folder, f'extern "C" __global__ void k({many}) {{}}\n')
    undefined = 'int elsewhere(); extern "C" __global__ void k(int* out) { out[0] = elsewhere(); }\n'
    assert "bad.cu does not compile" in refused(folder, undefined)
    with pytest.raises(CompileError, match=r"missing\.cu cannot be read"):
        hasty().load(KernelSource(path=folder / "missing.cu", include_dir=KERNELS_CUDA))
    (folder / "latin.cu").write_bytes(b"// caf\xe9\n")
    with pytest.raises(CompileError, match=r"latin\.cu cannot be read"):
        hasty().load(KernelSource(path=folder / "latin.cu", include_dir=KERNELS_CUDA))


def test_emulated_build_takes_what_a_folder_of_kernels_lacks_from_ours(folder: Path) -> None:
    own = hasty(folder)
    source = KernelSource(path=folder / "answer.cu", include_dir=folder, defines={"PAB_EXTRA": "BIAS"})
    (folder / "answer.cuh").write_text('#include "pab/types.cuh"\n#define ANSWER 40\n')
    message = refused_source(source)
    assert "BIAS" in message
    (folder / "pab").mkdir()
    types = (KERNELS_CUDA / "pab" / "types.cuh").read_text()
    (folder / "pab" / "types.cuh").write_text(f"{types}\n#define BIAS 7\n")
    assert result(own, source) == 47
    (folder / "pab" / "types.cuh").write_text(f"{types}\n#define BIAS 8\n")
    assert result(hasty(folder), source) == 48


def test_emulated_build_follows_the_emulator(
    folder: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answer(folder) == 42
    copy = folder / "emulator"
    shutil.copytree(EMULATOR, copy)
    monkeypatch.setenv("PABENCH_EMULATOR", str(copy))
    assert answer(folder) == 42  # the same texts elsewhere: nothing to compile
    with (copy / "checked" / "log.h").open("a") as header:
        header.write("// changed\n")
    assert answer(folder) == 42
    with (copy / "runtime.cpp").open("a") as source:
        source.write("// changed\n")
    assert answer(folder) == 42
    assert compiled == ["answer.cu", *2 * ["emulator/runtime.cpp", "answer.cu"]]


def test_emulated_build_without_a_runtime_is_no_verdict_on_a_kernel(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = folder / "emulator"
    shutil.copytree(EMULATOR, copy)
    monkeypatch.setenv("PABENCH_EMULATOR", str(copy))
    (copy / "runtime.cpp").write_text("#error too old\n")
    with pytest.raises(EnvironmentRefused, match=r"cannot be compiled here: emulator/runtime\.cpp .*too old"):
        answer(folder)
    (copy / "runtime.cpp").unlink()
    with pytest.raises(EnvironmentRefused, match="own sources cannot be read"):
        answer(folder)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("no-such-compiler -O3", "CXX = 'no-such-compiler -O3': no such compiler"),
        ("'unclosed", 'CXX = "\'unclosed": No closing quotation'),
        (" ", "CXX = ' ': no such compiler"),
        ("false", "C++ compiler false --version failed"),
    ],
)
@pytest.mark.slow
def test_emulated_build_refuses_a_wrong_compiler(
    given: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", given)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EnvironmentRefused) as caught:
        EmulatedDevice().ready()
    assert str(caught.value).startswith(text)
    words = [
        "sweep",
        "--page-sizes",
        "16",
        "--lengths",
        "fixed:len=8",
        "--batch",
        "1",
        "--device",
        "emulated",
    ]
    assert run([*words, "--out", "out"]) == 7
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_emulated_build_refuses_a_program_that_is_no_compiler(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "true")
    with pytest.raises(EnvironmentRefused, match="C\\+\\+ compiler true wrote no output"):
        answer(folder)
    assert [path.name[:8] for path in (folder / "cache").iterdir()] == ["runtime-"]


def test_emulated_build_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentRefused) as caught:
        EmulatedDevice().ready()
    assert str(caught.value) == "the emulated device needs a C++ compiler and found none"
    assert caught.value.hint is not None
    for word in ("g++", "clang++", "ziglang", "CXX"):
        assert word in caught.value.hint
    assert caught.value.exit_code == 7


@pytest.mark.slow
def test_emulated_build_takes_the_compiler_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = folder / "my compiler"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\nexec {shutil.which("g++")} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", f"'{wrapper}' -DANSWER_FLAG")
    assert answer(folder) == 42
    calls = (folder / "calls").read_text().splitlines()
    assert calls[0] == "-DANSWER_FLAG --version"
    assert calls[-1].startswith("-DANSWER_FLAG -std=c++20")
    assert len(calls) == 3  # another compiler means another runtime


def test_emulated_build_falls_back_where_the_cache_cannot_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[str]
) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("PABENCH_CACHE", str(folder / "file" / "cache"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folder / "tmp"))
    (folder / "tmp").mkdir()
    (folder / "tmp" / f"pabench-cache-{os.getuid()}").mkdir(mode=0o700)
    (runtime,) = (folder / "cache").iterdir()
    shutil.copy(runtime, folder / "tmp" / f"pabench-cache-{os.getuid()}")
    assert answer(folder) == 42
    fallback = folder / "tmp" / f"pabench-cache-{os.getuid()}"
    assert len(list(fallback.glob("*.so"))) == 2
    assert answer(folder) == 42
    assert compiled == ["answer.cu"]
    # a folder that somebody else put there is not trusted
    shutil.rmtree(fallback)
    (folder / "theirs").mkdir()
    fallback.symlink_to(folder / "theirs")
    with pytest.raises(EnvironmentRefused, match="compiled kernels can be kept neither in"):
        answer(folder)


def test_emulated_build_reports_a_cached_file_that_is_broken(folder: Path) -> None:
    assert answer(folder) == 42
    (kernel,) = (folder / "cache").glob("answer-*.so")
    (folder / "answer.cuh").write_text("#define ANSWER 60\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emulated, "compile_shared", lambda *args, what: Path(args[2]).write_bytes(b"text"))
        with pytest.raises(EnvironmentRefused, match=r"compiled kernel .*answer-.*\.so cannot be loaded"):
            answer(folder)
    assert kernel.is_file()


def process(folder: Path, *, code: str = "print(answer(folder))") -> subprocess.Popen[str]:
    head = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, '.');"
        f"from tests.emulator.test_build import answer; folder = Path({str(folder)!r});"
    )
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen([sys.executable, "-c", head + code], cwd=root, stdout=subprocess.PIPE, text=True)


def put_beside(path: Path, data: bytes | bytearray) -> None:
    """The file is a new one: this process has the old one mapped, and would die of pages that changed."""
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "swapped"])
def test_emulated_build_makes_damaged_libraries_again(folder: Path, damage: str) -> None:
    assert answer(folder) == 42
    assert answer(folder, extra=3) == 43
    kernels = sorted((folder / "cache").glob("answer-*.so"))
    libraries = [*kernels, *(folder / "cache").glob("runtime-*.so")]
    assert len(libraries) == 3
    if damage == "swapped":
        texts = [path.read_bytes() for path in kernels]
        for path, text in zip(kernels, reversed(texts), strict=True):
            put_beside(path, text)
    else:
        for path in libraries:
            data = bytearray(path.read_bytes())
            if damage == "flipped":
                for at in range(0, len(data), 64):
                    data[at] ^= 1
            put_beside(path, data[: {"empty": 0, "cut": 12_000}.get(damage)])
    both = process(folder, code="print(answer(folder), answer(folder, extra=3))")
    assert both.communicate(timeout=120)[0].split() == ["42", "43"]
    assert both.returncode == 0


def test_emulated_build_may_change_its_folder_in_mid_run(folder: Path) -> None:
    """Kernels of the second folder are run by the runtime that the process has, not half by another."""
    code = "print(answer(folder)); os.environ['PABENCH_CACHE'] += '2'; print(answer(folder, extra=3))"
    moved = process(folder, code=code)
    assert moved.communicate(timeout=120)[0].split() == ["42", "43"]
    assert len(list((folder / "cache2").iterdir())) == 2


@pytest.mark.parametrize(
    "words",
    [
        "/tmp/cc1.s:7: fatal error: error writing to /tmp/cc1.s: No space left on device",
        "g++: fatal error: Killed signal terminated program cc1plus",
        "cc1plus: out of memory allocating 65536 bytes",
    ],
)
def test_emulated_build_blames_no_kernel_for_what_the_machine_lacks(
    folder: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = f"echo '{words}' >&2; exit 1"
    (folder / "full").write_text(f"#!/bin/sh\ncase $1 in --version) echo full;; *) {fails};; esac")
    (folder / "full").chmod(0o755)
    monkeypatch.setenv("CXX", str(folder / "full"))
    with pytest.raises(EnvironmentRefused, match=r"^kernel cannot be compiled here: ") as caught:
        compiler.compile_shared(compiler.find_compiler(), [], folder / "x.so", what="kernel")
    assert words in str(caught.value)


def test_emulated_build_does_not_take_the_words_of_a_kernel_for_the_machines(folder: Path) -> None:
    kernel = 'extern "C" __global__ void k() {{ {} }}  // out of memory: killed signal\n'
    assert "out of memory" in refused(folder, f"{kernel.format('')}#error out of memory\n")
    refused(folder, kernel.format("oops;"))
    refused(folder, "\n" * 123_456 + kernel.format("oops;"))


def test_emulated_build_is_safe_in_two_processes(folder: Path) -> None:
    runs = [process(folder) for _ in range(2)]
    assert [process.communicate(timeout=120)[0].strip() for process in runs] == ["42", "42"]
    names = sorted(path.name for path in (folder / "cache").iterdir())
    assert len(names) == 2, names


@pytest.mark.parametrize("home", ["XDG_CACHE_HOME", "HOME"])
def test_emulated_build_finds_a_cache_without_platformdirs(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PABENCH_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(home, str(tmp_path))
    load = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "platformdirs":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    expected = tmp_path / "pabench" if home == "XDG_CACHE_HOME" else tmp_path / ".cache" / "pabench"
    assert cache.cache_root() == expected


def test_emulated_build_resolves_a_relative_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PABENCH_CACHE", ".")
    assert cache.cache_root() == tmp_path
    monkeypatch.setenv("PABENCH_CACHE", "~/x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / "x"


def test_emulated_build_keeps_nothing_of_a_failed_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PABENCH_CACHE", str(tmp_path))

    def broken(path: Path) -> None:
        path.write_text("half")
        raise CompileError("no")

    with pytest.raises(CompileError):
        cache.cached_file("x.so", broken)
    assert list(tmp_path.iterdir()) == []
    assert cache.cached_file("x.so", lambda path: None) == tmp_path / "x.so"


def test_emulated_build_makes_a_private_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PABENCH_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    path = cache.cached_file("x.so", lambda path: None)
    assert path.parent == tmp_path / f"pabench-cache-{os.getuid()}"
    assert path.parent.stat().st_mode & 0o077 == 0


def test_emulated_build_key_counts_boundaries() -> None:
    assert cache.content_key(["ab", "c"]) != cache.content_key(["a", "bc"])
    assert cache.content_key(["ab", b"c"]) == cache.content_key([b"ab", "c"])
    assert len(cache.content_key([])) == 32


def test_emulated_build_gives_up_on_a_slow_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = folder / "slow"
    slow.write_text('#!/bin/sh\ncase "$1" in --version) echo slow;; *) exec sleep 3600;; esac\n')
    slow.chmod(0o755)
    monkeypatch.setenv("CXX", str(slow))
    monkeypatch.setattr(compiler, "COMPILE_DEADLINE_S", 0.2)
    with pytest.raises(EnvironmentRefused, match=r"runtime\.cpp: the compiler did not finish within"):
        answer(folder)
    with pytest.raises(CompileError, match="kernel: the compiler did not finish within"):
        compiler.compile_shared(compiler.find_compiler(), [], folder / "x.so", what="kernel")


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("a.cu:1: warning: x\na.cu:2:3: error: y\na.cu:4: error: z", "a.cu:2:3: error: y"),
        ("a.cu:1:1: fatal error: no.h: No such file", "a.cu:1:1: fatal error: no.h: No such file"),
        ("k.cu(7): error: identifier undefined", "k.cu(7): error: identifier undefined"),
        ("something else\n\nlast\n", "last"),
        ("", "no message"),
    ],
)
def test_emulated_build_first_error(log: str, line: str) -> None:
    assert compiler.first_error(log) == line
