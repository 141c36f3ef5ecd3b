# SPDX-License-Identifier: Apache-2.0
"""The headers that a kernel file may include: where they lie, and what they add to the key of a binary."""

from __future__ import annotations

import os
from pathlib import Path

from pabench.resources import resource_dir

SUFFIXES = (".cuh", ".h", ".hpp", ".inl")
EMULATOR = Path(__file__).resolve().parent / "emulator"


def emulator_dir() -> Path:
    """Return the folder of the emulated device's C++, which is included as ``emulator/...``.

    It is the package's own.  Tests of the checker plant faults in a copy, a folder ``emulator`` elsewhere,
    and name it in ``PABENCH_EMULATOR``: like that it reaches worker processes too.
    """
    return Path(os.environ.get("PABENCH_EMULATOR") or EMULATOR)


def emulator_texts(emulator: Path) -> list[bytes]:
    """Return the texts that the runtime in the folder ``emulator`` is compiled from.

    Of the kernels' own headers it uses the names of types alone.
    """
    types = resource_dir("kernels_cuda") / "pab" / "types.cuh"
    return [*header_texts(emulator), (emulator / "runtime.cpp").read_bytes(), types.read_bytes()]


def include_dirs(kernels: Path) -> tuple[Path, ...]:
    """Return where headers are looked for: in ``kernels``, then in the project's ``kernels_cuda``.

    A folder of kernels of one's own needs no ``pab`` in it: what it does not have is ours.
    """
    ours = resource_dir("kernels_cuda")
    return (kernels,) if kernels.resolve() == ours.resolve() else (kernels, ours)


def header_texts(*roots: Path, beside: Path | None = None) -> list[bytes]:
    """Return name and text of every header under ``roots`` and in the folder ``beside``, in a fixed order."""
    found = [(path.relative_to(root), path) for root in roots for path in sorted(root.rglob("*"))]
    if beside is not None:
        found += [(Path(path.name), path) for path in sorted(beside.iterdir())]
    return [
        bytes(name) + b"\0" + path.read_bytes()
        for name, path in found
        if path.suffix in SUFFIXES and path.is_file()
    ]
