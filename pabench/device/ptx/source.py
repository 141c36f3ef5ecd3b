# SPDX-License-Identifier: Apache-2.0
"""From a kernel's source to its PTX: NVRTC for CUDA, a ``.ptx`` file as it is."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
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
USES_OURS = re.compile(r'^\s*#\s*include\s*[<"]pab/', re.MULTILINE)
TOOLKIT = re.compile(
    r"(^|/)(cuda[^/]*|nvidia/[^/]+)(/targets/[^/]+)?/include/|/_cccl/|(^|/)triton/language/|^[\w.]+$"
)
"""Headers of a toolkit or its wheel, those that NVRTC has within itself, and Triton's own functions."""
HEADERS = Path(__file__).parent / "headers"
"""What nvcc gives a source and NVRTC does not: a prelude, and standard headers as far as kernels use them."""
PRELUDE = "pabench_prelude.h"


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
    options = [*nvrtc_options(source, architecture.replace("sm_", "compute_")), "-lineinfo"]
    headers: dict[bytes, bytes] = {}
    if not USES_OURS.search(text):
        headers = standard_headers()
        options += [f"--pre-include={PRELUDE}", *(f"-I{folder}" for folder in toolkit_includes())]
    try:
        program = nvrtc.createProgram(text, str(source.path.resolve()), list(headers.values()), list(headers))
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


@functools.cache
def standard_headers() -> dict[bytes, bytes]:
    """Return the headers that NVRTC lacks, name to text."""
    return {path.name.encode(): path.read_bytes() for path in sorted(HEADERS.iterdir())}


@functools.cache
def toolkit_includes() -> tuple[Path, ...]:
    """Return folders with headers of CUDA: of the wheel ``nvidia-cuda-runtime``, or of ``$CUDA_PATH``."""
    found = [folder for home in _package_dirs("nvidia") for folder in sorted(home.glob("*/include"))]
    found += [Path(home) / "include" for home in (os.environ.get("CUDA_PATH"),) if home]
    # libcudacxx, on which cooperative groups and halves rest, comes with CuPy
    bundled = [folder for home in _package_dirs("cupy") for folder in home.glob("_core/include/cupy/_cccl/*")]
    return (*(folder for folder in found if (folder / "cuda_fp16.h").is_file()), *sorted(bundled))


def _package_dirs(name: str) -> list[Path]:
    spec = importlib.util.find_spec(name)
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []


def is_foreign(file: str) -> bool:
    """Whether a source file is a header of ours or of the toolkit: its lines are not the user's."""
    return bool(OURS.search(file) or TOOLKIT.search(file))
