# SPDX-License-Identifier: Apache-2.0
"""What a run was made with: versions, processor, compiler, commit.  Quick, and free of heavy imports."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pabench import __version__
from pabench.cores import usable_cores

PACKAGES = (
    "numpy",
    "torch",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "cupy",
    "hypothesis",
    "pytest",
    "pandas",
    "vl-convert-python",
    "jinja2",
    "click",
    "rich",
    "nvidia-cuda-nvrtc",
    "ziglang",
)
COMMAND_TIMEOUT_S = 5.0


def collect(*, device_name: str | None = None, device_description: str | None = None) -> dict[str, Any]:
    """Return the provenance of a run as JSON values.

    What cannot be found out here (no git, no compiler, a package that is not installed) is None or left out,
    never an error.  Versions come from the packages' metadata: nothing is imported.

    Args:
        device_name: ``cuda`` or ``emulated``.
        device_description: the device's own line about itself.
    """
    commit, dirty = git_state(Path(__file__).resolve().parents[2])
    return {
        "pabench": __version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cpu": {"name": cpu_name(), "count": os.cpu_count(), "usable": usable_cores()},
        "versions": package_versions(PACKAGES),
        "compiler": compiler_line(),
        "device": {"name": device_name, "description": device_description},
    }


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """Return the installed version of each package in ``names``, those not installed left out."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """Return commit and "has uncommitted changes" of the checkout at ``root``, or two Nones.

    Only a repository whose top is ``root`` counts: an installed pabench inside somebody's checkout must not
    report that checkout's commit.
    """
    if not (root / ".git").exists():
        return None, None
    commit = _first_line(["git", "-C", str(root), "rev-parse", "HEAD"])
    if commit is None:
        return None, None
    changes = _output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return commit, None if changes is None else bool(changes.strip())


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name, or its architecture where the system does not tell."""
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return " ".join(value.split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def compiler_line() -> str | None:
    """Return the first line of ``--version`` of the host's C++ compiler: ``$CXX``, else g++, else clang++."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and (line := _first_line([*name.split(), "--version"])):
            return line
    return None


def _first_line(command: Sequence[str]) -> str | None:
    output = _output(command)
    lines = output.strip().splitlines() if output else []
    return lines[0].strip() if lines else None


def _output(command: Sequence[str]) -> str | None:
    """Standard output of a short command in the C locale, None when it is missing, slow or unhappy."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
