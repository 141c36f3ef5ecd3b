# SPDX-License-Identifier: Apache-2.0
"""From a source to PTX by nvcc, which takes headers of the host where NVRTC does not; no GPU is needed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pabench.device.cache import cached_text, content_key
from pabench.device.ptx.source import toolkit_includes
from pabench.errors import CompileError, EnvironmentRefused
from pabench.text import one_line

DEADLINE_S = 600.0
ERROR = re.compile(r"^.*\berror\b.*$", re.MULTILINE | re.IGNORECASE)


def compile_with_nvcc(
    nvcc: Path,
    source: Path,
    architecture: str,
    *,
    options: Sequence[str] = (),
    includes: Sequence[Path] = (),
    defines: Mapping[str, str],
    key: str,
) -> str:
    """Return the PTX of ``source``, which is kept for the next time.

    Args:
        nvcc: the compiler; its ``cicc`` lies beside it, as in the wheels and in a toolkit.
        source: the file; headers beside it count as part of it.
        architecture: such as ``sm_80``.
        options: of the compiler.
        includes: folders of headers, ahead of those of CUDA.
        defines: macros.
        key: what stands for the headers of ``includes``, such as a version.

    Raises:
        CompileError: it does not compile, with the first message of the compiler.
        EnvironmentRefused: the compiler does not run.
    """
    words = ["-ptx", "-lineinfo", f"-arch={architecture.replace('sm_', 'compute_')}", *options]
    words += [f"-D{name}={value}" for name, value in sorted(defines.items())]
    beside = [path.read_bytes() for path in sorted(source.parent.glob("*.cu*"))]
    folders = [f"-I{folder}" for folder in (*includes, *toolkit_includes())]

    def make() -> str:
        with tempfile.TemporaryDirectory(prefix="pabench-") as room:
            out = Path(room) / "out.ptx"
            _run(
                [str(nvcc), *words, *folders, str(source), "-o", str(out)],
                f"{source.name} for {architecture}",
            )
            return out.read_text(encoding="utf-8")

    return cached_text(f"nvcc-{content_key([key, str(nvcc), *words, source.name, *beside])}.txt", make)


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=DEADLINE_S, check=False
        )
    except OSError as error:
        raise EnvironmentRefused(f"nvcc cannot be run: {error}") from error
    except subprocess.TimeoutExpired:
        raise CompileError(f"{what}: nvcc did not finish in {DEADLINE_S:g} s") from None
    if done.returncode:
        said = done.stderr or done.stdout
        found = ERROR.search(said)
        message = one_line(found[0] if found else said.strip()[:300])
        raise CompileError(f"{what} does not compile: {message}")
