"""NVRTC: options for a kernel instance, and compilation to a cubin with no GPU at hand."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pabench.device.base import KernelSource
from pabench.device.cache import content_key
from pabench.device.compiler import first_error
from pabench.device.headers import header_texts
from pabench.errors import CompileError, EnvironmentRefused

ARCHITECTURES = ("sm_80", "sm_90a", "sm_100a", "sm_120")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cubin:
    """A kernel file compiled for one architecture.

    Attributes:
        image: the binary.
        log: the compiler's and ptxas' messages, resource usage of each kernel included.
    """

    image: bytes
    log: str


def nvrtc_options(
    *, include_dir: Path, defines: Mapping[str, str], architecture: str | None = None
) -> tuple[str, ...]:
    """Return NVRTC's options for a kernel instance, in a fixed order.

    Args:
        include_dir: root of the headers.
        defines: macros of the instance.
        architecture: such as ``sm_90a``; None leaves the choice to CuPy.
    """
    if architecture is not None and not re.fullmatch(r"(sm|compute)_\d{2,3}[af]?", architecture):
        raise CompileError(f"architecture {architecture!r}: must read like sm_90a")
    options = ["--std=c++17", f"-I{include_dir}"]
    options += [f"-D{name}={value}" for name, value in sorted(defines.items())]
    if architecture is not None:
        options.append(f"--gpu-architecture={architecture}")
    return tuple(options)


def header_key(include_dir: Path) -> str:
    """Return a hash of the device headers, for caches that know only the kernel's own text."""
    return content_key(header_texts(include_dir))


def compile_cubin(source: KernelSource, architecture: str) -> Cubin:
    """Compile ``source`` for ``architecture`` with NVRTC; needs CuPy and the NVRTC wheels but no GPU.

    Raises:
        EnvironmentRefused: CuPy or NVRTC is not installed.
        CompileError: with the first error of the log.
    """
    if importlib.util.find_spec("cupy") is None:
        raise EnvironmentRefused(
            "NVRTC is reached through CuPy, which is missing", hint="pip install pabench[nvrtc]"
        )
    common = nvrtc_options(include_dir=source.include_dir, defines=source.defines, architecture=architecture)
    options = [*common, "--ptxas-options=-v"]
    try:
        text = source.path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CompileError(f"kernel file {source.path} cannot be read: {error}") from None
    try:
        from cupy.cuda import nvrtc

        program = nvrtc.createProgram(text, source.path.name, [], [])
    except (ImportError, OSError, RuntimeError) as error:
        raise EnvironmentRefused(
            f"NVRTC cannot be loaded: {error}", hint="pip install pabench[nvrtc]"
        ) from error
    try:
        nvrtc.compileProgram(program, options)
        return Cubin(image=nvrtc.getCUBIN(program), log=nvrtc.getProgramLog(program))
    except nvrtc.NVRTCError:
        message = first_error(nvrtc.getProgramLog(program))
        raise CompileError(f"{source.path.name} for {architecture} does not compile: {message}") from None
    finally:
        nvrtc.destroyProgram(program)
