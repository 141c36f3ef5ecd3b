# SPDX-License-Identifier: Apache-2.0
"""NVRTC: options for a kernel instance, and compilation to a cubin with no GPU at hand."""

from __future__ import annotations

import functools
import importlib.util
import re
import struct
from dataclasses import dataclass
from typing import Any

from pabench.device.base import KernelSource
from pabench.device.cache import cached_text, content_key
from pabench.device.compiler import first_error
from pabench.device.cupy_home import settle_cupy
from pabench.device.headers import header_texts, include_dirs
from pabench.errors import CompileError, EnvironmentRefused

ARCHITECTURES = ("sm_80", "sm_90a", "sm_100a", "sm_120")
ELF = struct.Struct("<32x QQ 6x HHHH")
"""Of a file's head: where the program and the section headers begin; size and number of either."""
INSTALL = "pip install pabench[nvrtc]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cubin:
    """A kernel file compiled for one architecture.

    Attributes:
        image: the binary.
        log: the compiler's and ptxas' messages, resource usage of each kernel included.
    """

    image: bytes
    log: str


def nvrtc_options(source: KernelSource, architecture: str | None = None) -> tuple[str, ...]:
    """Return NVRTC's options for a kernel instance, in a fixed order.

    Headers are looked for in ``source.include_dir``, the project's ``kernels_cuda`` and beside the kernel.

    Args:
        source: the kernel instance.
        architecture: such as ``sm_90a``; None leaves the choice to CuPy.

    Raises:
        CompileError: no such name of an architecture.
    """
    if architecture is not None and not re.fullmatch(r"(sm|compute)_\d{2,3}[af]?", architecture):
        raise CompileError(f"architecture {architecture!r}: must read like sm_90a")
    folders = dict.fromkeys((*include_dirs(source.include_dir), source.path.parent))
    options = ["--std=c++17", *(f"-I{folder}" for folder in folders)]
    options += [f"-D{name}={value}" for name, value in sorted(source.defines.items())]
    if architecture is not None:
        options.append(f"--gpu-architecture={architecture}")
    return tuple(options)


def header_key(source: KernelSource) -> str:
    """Return a hash of the headers, for caches that know only the kernel's own text.

    Raises:
        CompileError: the folder of the kernel file cannot be read.
    """
    try:
        return content_key(header_texts(*include_dirs(source.include_dir), beside=source.path.parent))
    except OSError as error:
        raise CompileError(f"headers beside {source.path} cannot be read: {error}") from None


def compile_cubin(source: KernelSource, architecture: str, *, lines: bool = False) -> Cubin:
    """Compile ``source`` for ``architecture`` with NVRTC; needs CuPy and the NVRTC wheels but no GPU.

    With ``lines`` the binary has the lines of its source, and the same instructions.

    Raises:
        EnvironmentRefused: CuPy or NVRTC is not installed.
        CompileError: with the first error of the log.
    """
    nvrtc = load_nvrtc()
    options = [*_cubin_options(source, architecture), *(["-lineinfo"] if lines else [])]
    text = _kernel_text(source)
    try:
        program = nvrtc.createProgram(text, source.path.name, [], [])
    except (OSError, RuntimeError) as error:
        raise EnvironmentRefused(f"NVRTC cannot be loaded: {error}", hint=INSTALL) from error
    try:
        nvrtc.compileProgram(program, options)
        return Cubin(image=whole_image(nvrtc.getCUBIN(program)), log=nvrtc.getProgramLog(program))
    except nvrtc.NVRTCError:
        message = first_error(nvrtc.getProgramLog(program))
        raise CompileError(f"{source.path.name} for {architecture} does not compile: {message}") from None
    finally:
        nvrtc.destroyProgram(program)


def whole_image(image: bytes) -> bytes:
    """Return the binary ``image`` with the last byte that CuPy may have taken for the NUL behind a text.

    A cubin ends in a table of its headers, and each of them in a number of 64 bits, little endian, whose top
    byte is zero: an alignment or the size of an entry.

    Raises:
        EnvironmentRefused: it lacks more than that, or is no ELF file of 64 bits.
    """
    if image[:6] == b"\x7fELF\x02\x01" and len(image) >= ELF.size:
        program, section, program_size, programs, section_size, sections = ELF.unpack_from(image)
        end = max(program + program_size * programs, section + section_size * sections)
        if len(image) >= end:
            return image
        if len(image) + 1 == end:
            return image + b"\0"
    raise EnvironmentRefused(f"NVRTC's binary is not whole: {len(image)} bytes", hint=INSTALL)


def compile_log(source: KernelSource, architecture: str) -> str:
    """Return the log of ``compile_cubin``, kept by the content of all that went into it.

    Raises:
        EnvironmentRefused, CompileError: as ``compile_cubin``; errors are not kept.
    """
    parts = (nvrtc_version(), _kernel_text(source), source.path.name, *_cubin_options(source, architecture))
    key = content_key([*parts, header_key(source)])
    return cached_text(f"ptxas-{key}.log", lambda: compile_cubin(source, architecture).log)


def nvrtc_installed() -> bool:
    """Whether CuPy is there, through which NVRTC is reached; loads nothing."""
    return importlib.util.find_spec("cupy") is not None


@functools.cache
def nvrtc_version() -> str:
    """Return the version of NVRTC with its build, such as ``13.0.88``.

    Builds of one version allot registers differently, and ``nvrtcVersion`` tells only ``13.0``: the build
    is read from the PTX of an empty program, whose head names it.

    Raises:
        EnvironmentRefused: NVRTC is missing, or does not even compile that.
    """
    major, minor = _ask("getVersion")
    nvrtc = load_nvrtc()
    program = nvrtc.createProgram("", "empty.cu", [], [])
    try:
        nvrtc.compileProgram(program, [])
        head = nvrtc.getPTX(program).decode(errors="replace")
    except nvrtc.NVRTCError:
        message = first_error(nvrtc.getProgramLog(program))
        raise EnvironmentRefused(f"NVRTC {major}.{minor} does not work: {message}", hint=INSTALL) from None
    finally:
        nvrtc.destroyProgram(program)
    named = re.search(rf"\bV({major}\.{minor}\.\d+)\b", head)
    return named[1] if named else f"{major}.{minor}"


def check_architecture(architecture: str) -> None:
    """Raise ``EnvironmentRefused`` when the installed NVRTC does not compile for ``architecture``."""
    number = re.sub(r"\D", "", architecture)
    known = [str(value) for value in _ask("getSupportedArchs")]
    if number not in known:
        raise EnvironmentRefused(
            f"NVRTC {nvrtc_version()} does not compile for {architecture}, only for {', '.join(known)}",
            hint="install a newer NVRTC: pip install -U nvidia-cuda-nvrtc",
        )


def _ask(question: str) -> Any:
    nvrtc = load_nvrtc()
    try:
        return getattr(nvrtc, question)()
    except (OSError, RuntimeError) as error:
        # CuPy looks for the library at the first call
        raise EnvironmentRefused(f"NVRTC cannot be loaded: {error}", hint=INSTALL) from error


def load_nvrtc() -> Any:
    """Return CuPy's binding of NVRTC.

    Raises:
        EnvironmentRefused: there is none.
    """
    if importlib.util.find_spec("cupy") is None:
        raise EnvironmentRefused("NVRTC is reached through CuPy, which is missing", hint=INSTALL)
    settle_cupy()
    try:
        from cupy.cuda import nvrtc
    except (ImportError, OSError, RuntimeError) as error:
        raise EnvironmentRefused(f"NVRTC cannot be loaded: {error}", hint=INSTALL) from error
    return nvrtc


def _cubin_options(source: KernelSource, architecture: str) -> list[str]:
    return [*nvrtc_options(source, architecture), "--ptxas-options=-v"]


def _kernel_text(source: KernelSource) -> str:
    try:
        return source.path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CompileError(f"kernel file {source.path} cannot be read: {error}") from None
