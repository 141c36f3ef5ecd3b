"""From a kernel's source to its PTX: NVRTC for CUDA, a ``.ptx`` file as it is."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
from pathlib import Path

from pabench.device.base import KernelSource
from pabench.device.compiler import first_error
from pabench.device.nvrtc import INSTALL, check_architecture, load_nvrtc, nvrtc_options
from pabench.errors import CompileError, EnvironmentRefused

SUFFIX = ".ptx"
WHEELS = ("cupy-cuda13x", "cupy-cuda12x", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime")
OURS = re.compile(r"(^|/)pab/[^/]*$")


def read_source(path: Path) -> str:
    """Return the text of a kernel file.

    Raises:
        CompileError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CompileError(f"kernel file {path} cannot be read: {error}") from None


def compile_ptx(source: KernelSource, architecture: str) -> str:
    """Return the PTX of a kernel file for ``architecture``, with the lines of its source.

    Raises:
        CompileError: it does not compile, with the first message of the compiler.
        EnvironmentRefused: there is no NVRTC.
    """
    text = read_source(source.path)
    if source.path.suffix == SUFFIX:
        return text
    nvrtc = load_nvrtc()
    check_architecture(architecture)
    virtual = architecture.replace("sm_", "compute_")
    options = [*nvrtc_options(source, virtual), "-lineinfo"]
    try:
        program = nvrtc.createProgram(text, str(source.path.resolve()), [], [])
    except (OSError, RuntimeError) as error:
        raise EnvironmentRefused(f"NVRTC cannot be loaded: {error}", hint=INSTALL) from error
    try:
        nvrtc.compileProgram(program, options)
        return bytes(nvrtc.getPTX(program)).rstrip(b"\0").decode(errors="replace")
    except nvrtc.NVRTCError:
        message = first_error(nvrtc.getProgramLog(program))
        raise CompileError(f"{source.path.name} for {architecture} does not compile: {message}") from None
    finally:
        nvrtc.destroyProgram(program)


@functools.cache
def compiler_key() -> str:
    """Return what tells one NVRTC from another, without loading it: versions of the packages, CUDA_PATH."""
    found = [os.environ.get("CUDA_PATH", "")]
    for wheel in WHEELS:
        try:
            found.append(f"{wheel} {importlib.metadata.version(wheel)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return "; ".join(found)


def is_foreign(file: str) -> bool:
    """Whether a source file is a header of ours or of the toolkit: its lines are not the user's."""
    return bool(OURS.search(file))
