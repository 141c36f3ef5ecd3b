# SPDX-License-Identifier: Apache-2.0
"""Judges other projects' packages, pinned and newest, and writes a page of them: ``make weather``.

Packages go into folders of their own without their dependencies, as ``make test-peers`` installs them; of a
package whose index has a newer release than the pinned one, both are judged.  Kernels in Triton are judged as
compiled code on ``ptx:sm_80``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PTX = "ptx:sm_80"
QUESTIONS = (
    "decode[normal], decode[needle], decode[window], decode[soft-cap], decode[alibi], decode[sinks], "
    "prefill[causal], empty, poison, table-tail, repeat, merge[close], merge-empty"
)
"""Asked of compiled kernels, each form of which is compiled twice: by Triton, and from PTX for the host."""
SUBJECTS: dict[str, tuple[str, ...]] = {
    "vllm": (
        "--allocator vllm-block-pool",
        "--allocator vllm-kv-cache-manager",
        "--allocator vllm-prefix-cache",
        "--allocator vllm-kv-groups",
        "--allocator vllm-hybrid-cache",
    ),
    "sglang": ("--allocator sglang-paged", "--allocator sglang-radix-cache"),
    "transformers": (
        "--allocator transformers-block-manager",
        "--allocator transformers-paged-cache",
        "--backend transformers-paged",
    ),
}
"""What is judged of a package without a GPU in minutes."""
WITH_TORCH = ("--allocator torch-paged", "--backend torch-flex")
"""The same of the torch that is installed."""
COMPILED: dict[str, tuple[str, ...]] = {
    "vllm": ("--backend vllm-triton",),
    "sglang": ("--backend sglang-triton",),
}
"""What is compiled by Triton."""
NEEDED = ("vllm", "sglang", "transformers", "triton")
JUDGED = (0, 1, 5)
"""Exit codes of a run that has judged, or had nothing that it could."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One conformance run.

    Attributes:
        name: of its folder.
        peers: folder of the packages.
        options: of ``pabench conformance``.
    """

    name: str
    peers: Path
    options: tuple[str, ...] = field(default_factory=tuple)


def plan(pinned: Mapping[str, str], newer: Mapping[str, str], peers: Path, budget: str) -> list[Run]:
    """Return the runs for packages as pinned, and for those of which there is a newer release.

    Args:
        pinned: version by package.
        newer: the same of newer releases.
        peers: folder of the pinned ones; that of the newer ones is beside it.
        budget: time for each run of compiled kernels, as ``--budget`` takes it.
    """

    def options(names: Sequence[str], table: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        return tuple(word for name in names for option in table.get(name, ()) for word in option.split())

    compiled = ("--device", PTX, "--profile", "trial", "-k", QUESTIONS, "--budget", budget)
    torch = tuple(word for option in WITH_TORCH for word in option.split())
    runs = [
        Run(
            name="pinned",
            peers=peers,
            options=("--profile", "quick", *options(list(pinned), SUBJECTS), *torch),
        )
    ]
    runs.append(Run(name="compiled", peers=peers, options=(*compiled, *options(list(pinned), COMPILED))))
    folder = newest_folder(peers)
    if found := options(list(newer), SUBJECTS):
        runs.append(Run(name="newest", peers=folder, options=("--profile", "quick", *found)))
    if found := options(list(newer), COMPILED):
        runs.append(Run(name="newest-compiled", peers=folder, options=(*compiled, *found)))
    return runs


def newest_folder(peers: Path) -> Path:
    """Return the folder of newer releases."""
    return peers.with_name(f"{peers.name}-newest")


def newest(name: str) -> str | None:
    """Return the newest release that the index has, or None where it does not say."""
    said = _pip("index", "versions", name)
    found = re.match(rf"{re.escape(name)} \(([^)]+)\)", said.stdout)
    return found[1] if found else None


def install(name: str, version: str, folder: Path) -> None:
    """Install a package without its dependencies, unless it is there; end the program where that fails."""
    if (folder / f"{name}-{version}.dist-info").is_dir():
        return
    done = _pip(
        *("install", "--quiet", "--no-deps", "--no-build-isolation", "--upgrade"),
        *("--target", str(folder), f"{name}=={version}"),
    )
    if done.returncode:
        sys.exit(
            f"{name}=={version} cannot be installed into {folder}: {done.stderr.strip().splitlines()[-1]}"
        )


def main() -> None:
    """Install, judge, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pinned", required=True, help="packages as NAME==VERSION, separated by blanks")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and page")
    parser.add_argument("--since", type=Path, help="JSON of an earlier page")
    parser.add_argument("--peers", type=Path, default=Path(".peers"), help="folder of the pinned packages")
    parser.add_argument("--budget", default="10m", help="for each run of compiled kernels")
    given = parser.parse_args()
    pinned = {name: version for name, version in _pairs(given.pinned) if name in NEEDED}
    if missing := [name for name in NEEDED if name not in pinned]:
        parser.error(f"--pinned names no {', '.join(missing)}")
    releases = {name: newest(name) for name in pinned}
    newer = {name: found for name, found in releases.items() if found and found != pinned[name]}
    for name, version in pinned.items():
        install(name, version, given.peers)
    for name, version in newer.items():
        install(name, version, newest_folder(given.peers))
    if newer and "triton" not in newer:
        install("triton", pinned["triton"], newest_folder(given.peers))
    folders = []
    for run in plan(pinned, newer, given.peers, given.budget):
        folder = given.out / run.name
        words = [*PABENCH, "conformance", *run.options, "--out", str(folder), "--overwrite"]
        code = subprocess.run(
            words, env={**os.environ, "PABENCH_PEERS": str(run.peers)}, check=False
        ).returncode
        if code not in JUDGED:
            sys.exit(code)
        folders.append(str(folder))
    since = [] if given.since is None or not given.since.is_file() else ["--since", str(given.since)]
    page = ["--out", str(given.out / "weather.html"), "--json", str(given.out / "weather.json")]
    sys.exit(subprocess.run([*PABENCH, "weather", *folders, *page, *since], check=False).returncode)


PABENCH = (sys.executable, "-m", "pabench")


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = [word.partition("==") for word in text.split()]
    return [(name, version) for name, _, version in pairs]


def _pip(*words: str) -> subprocess.CompletedProcess[str]:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    return subprocess.run(pip, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    main()
