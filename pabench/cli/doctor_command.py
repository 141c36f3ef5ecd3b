# SPDX-License-Identifier: Apache-2.0
"""``pabench doctor``: what this machine offers to pabench, and what is missing."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

import click

from pabench import __version__
from pabench.cli.doctor_peers import peer_facts
from pabench.cli.stamp import stamped
from pabench.cli.text_table import screen_width
from pabench.console import say
from pabench.errors import EnvironmentRefused
from pabench.run import provenance
from pabench.run.provenance import package_versions

PACKAGES = (*provenance.PACKAGES, "nvidia-cuda-runtime", "platformdirs", "pytest-benchmark")
"""What a run records, and what else an installation may lack."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--peers", is_flag=True, help="Also show the packages of other projects that adapters run.")
@click.option(
    "--strict",
    is_flag=True,
    help="Exit with code 7 if no device works, or a resource or peer is missing.",
)
def command(as_json: bool, peers: bool, strict: bool) -> None:
    """Show versions, compiler, NVRTC, GPUs, resources and the cache folder.

    \b
    Examples:
      pabench doctor
      pabench doctor --json --strict
      pabench doctor --peers
    """
    facts = examine() | ({"peers": peer_facts()} if peers else {})
    say(json.dumps(stamped("doctor", facts), indent=2) if as_json else _text(facts))
    if strict and not facts["devices"]:
        raise EnvironmentRefused(
            "neither a CUDA GPU nor a C++ compiler is here, so no device works",
            hint="install g++ or clang++, or `pip install ziglang`, or CuPy on a machine with a GPU",
        )
    missing = [name for name, found in facts["resources"].items() if not found["files"]]
    if strict and missing:
        raise EnvironmentRefused(f"resources without files: {', '.join(missing)}", hint="reinstall pabench")
    # what needs a GPU is not missed where none is
    lacking = [
        found["problem"]
        for found in facts.get("peers", {}).values()
        if "problem" in found and not (found["needs_gpu"] and "problem" in facts["gpu"])
    ]
    if strict and lacking:
        raise EnvironmentRefused(lacking[0])


def examine() -> dict[str, Any]:
    """Return the facts as JSON values; what is missing carries a ``problem`` that says why."""
    compiler, gpu, nvrtc, versions = _compiler(), _gpu(), _nvrtc(), package_versions(PACKAGES)
    needs = {"cuda": (gpu,), "emulated": (compiler,), "ptx:sm_80": (compiler, nvrtc)}
    devices = [name for name, found in needs.items() if not any("problem" in one for one in found)]
    return {
        "pabench": {"version": __version__, "path": str(Path(__file__).resolve().parents[1])},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": {"name": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "devices": devices,
        "compiler": compiler,
        "gpu": gpu,
        "nvrtc": nvrtc,
        "resources": _resources(),
        "backends": _backends(),
        "cache": _cache(),
        "packages": {name: versions.get(name) for name in PACKAGES},
    }


def _compiler() -> dict[str, Any]:
    from pabench.device.compiler import find_compiler

    try:
        found = find_compiler()
    except EnvironmentRefused as error:
        return {"problem": str(error)}
    return {"command": shlex.join(found.command), "version": found.version}


def _gpu() -> dict[str, Any]:
    from pabench.device.cuda import why_no_cuda

    if problem := why_no_cuda():
        return {"problem": problem}
    import cupy

    runtime = cupy.cuda.runtime
    names = []
    for index in range(runtime.getDeviceCount()):
        about = runtime.getDeviceProperties(index)
        names.append(f"{about['name'].decode()} (sm_{about['major']}{about['minor']})")
    return {"names": names, "driver": runtime.driverGetVersion()}


def _nvrtc() -> dict[str, Any]:
    try:
        from pabench.device.nvrtc import nvrtc_version

        return {"version": nvrtc_version()}
    except Exception as error:
        # cupy reports a missing or broken library in half a dozen ways, and none of them is our failure
        return {"problem": f"{type(error).__name__}: {error}"}


def _resources() -> dict[str, Any]:
    from pabench.resources import RESOURCES, resource_dir

    out: dict[str, Any] = {}
    for name in RESOURCES:
        try:
            folder = resource_dir(name)
        except EnvironmentRefused as error:
            out[name] = {"files": 0, "problem": str(error)}
            continue
        files = sum(path.is_file() and "__pycache__" not in path.parts for path in folder.rglob("*"))
        out[name] = {"path": str(folder), "files": files}
    return out


def _backends() -> dict[str, Any]:
    from pabench.subjects.reference import BACKEND
    from pabench.subjects.registry import installed, places

    foreign = installed(BACKEND)
    return {name: {"object": at, "entry_point": name in foreign} for name, at in places(BACKEND).items()}


def _cache() -> dict[str, Any]:
    from pabench.device.cache import cache_root, distrust

    folder = cache_root()
    # the folder is made at the first use; until then its nearest parent has to take it
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    found: dict[str, Any] = {"path": str(folder)}
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        found["problem"] = f"{nearest} cannot be written; a temporary folder is used instead"
    elif why := distrust(folder):
        found["problem"] = why
    return found


def _text(facts: dict[str, Any]) -> str:
    lines = []
    for part, found in facts.items():
        if part == "devices":
            lines.append(f"{part:<10} {', '.join(found) or 'none works here'}")
        elif part == "packages":
            known = ", ".join(f"{name} {version}" for name, version in found.items() if version)
            absent = ", ".join(name for name, version in found.items() if not version)
            lines += [f"{part:<10} {known}", f"{'':<10} not installed: {absent or 'none'}"]
        elif part == "backends":
            # where they stand is for --json; which package each needs, for --peers
            lines.append(f"{part:<10} {', '.join(found)}")
        elif part in ("resources", "peers"):
            lines += [
                f"{part if not n else '':<10} {_line(row, name)}"
                for n, (name, row) in enumerate(found.items())
            ]
        else:
            lines.append(f"{part:<10} {_line(found)}")
    width, said = screen_width(), []
    for line in lines:
        said += [line] if width is None else _folded(line, width)
    return "\n".join(said)


def _folded(line: str, width: int) -> list[str]:
    return textwrap.wrap(
        line, max(width, 40), subsequent_indent=" " * 11, break_on_hyphens=False, break_long_words=False
    )


def _line(row: dict[str, Any], name: str = "") -> str:
    if "problem" in row:
        said = f"missing: {' '.join(row['problem'].split())}"
    else:
        said = ", ".join(f"{key} {_value(value)}" for key, value in row.items())
    return f"{name} {said}".strip()


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "; ".join(f"{name} ({said})" for name, said in value.items())
    return "; ".join(value) if isinstance(value, list) else str(value)
