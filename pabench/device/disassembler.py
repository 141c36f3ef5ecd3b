# SPDX-License-Identifier: Apache-2.0
"""The disassembler and assembler of NVIDIA's toolkit, from a wheel or the path; neither needs a GPU."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path

from pabench.errors import EnvironmentRefused, UsageError
from pabench.text import one_line

NVDISASM, PTXAS = "nvdisasm", "ptxas"
WHEELS = {NVDISASM: "nvidia-cuda-nvdisasm", PTXAS: "nvidia-cuda-nvcc"}
"""Tool to the package that brings it; Triton brings both."""
FOLDERS = {"nvidia": "*/bin", "triton": "backends/nvidia/bin"}
DEADLINE_S = 120.0


def find_tool(name: str) -> Path | None:
    """Return where a tool of ``WHEELS`` is, in a wheel of NVIDIA or Triton or on the path, or None."""
    for package, folder in FOLDERS.items():
        spec = importlib.util.find_spec(package)
        for place in spec.submodule_search_locations or () if spec else ():
            for found in sorted(Path(place).glob(f"{folder}/{name}")):
                return found
    on_path = shutil.which(name)
    return None if on_path is None else Path(on_path)


def disassemble(image: bytes, name: str) -> str:
    """Return the instructions of a cubin as text, with lines of source where it has them.

    Args:
        image: the cubin.
        name: of it, in messages.

    Raises:
        EnvironmentRefused: no disassembler is installed.
        UsageError: it cannot read the image.
    """
    tool = _tool(NVDISASM)
    with tempfile.TemporaryDirectory(prefix="pabench-") as folder:
        path = Path(folder) / "image.cubin"
        path.write_bytes(image)
        return _run([str(tool), "-c", "-gi", str(path)], name, path)


def assemble(path: Path, architecture: str) -> bytes:
    """Return the cubin of a PTX file.

    Raises:
        EnvironmentRefused: no assembler is installed.
        UsageError: it does not take the file.
    """
    tool = _tool(PTXAS)
    with tempfile.TemporaryDirectory(prefix="pabench-") as folder:
        target = Path(folder) / "image.cubin"
        _run([str(tool), f"-arch={architecture}", "-o", str(target), str(path)], path.name, path)
        return target.read_bytes()


def _tool(name: str) -> Path:
    found = find_tool(name)
    if found is None:
        raise EnvironmentRefused(f"{name} is not installed", hint=f"pip install {WHEELS[name]}")
    return found


def _run(command: list[str], name: str, path: Path) -> str:
    tool = Path(command[0]).name
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=DEADLINE_S, check=False
        )
    except OSError as error:
        raise EnvironmentRefused(f"{tool} cannot be run: {error}") from error
    except subprocess.TimeoutExpired:
        raise UsageError(f"{name}: {tool} did not finish in {DEADLINE_S:g} s") from None
    if done.returncode:
        said = one_line((done.stderr or done.stdout).replace(str(path), name).strip()[:300])
        raise UsageError(f"{name}: {tool} cannot read it: {said}")
    return done.stdout
