# SPDX-License-Identifier: Apache-2.0
"""Runs the small kernels of tests/kernels on the checked device and says what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pabench.device.base import KernelSource, Launch
from pabench.device.checked import CheckedDevice
from pabench.device.findings import Finding
from pabench.resources import resource_dir

KERNELS = Path(__file__).resolve().parents[1] / "support" / "cuda"


def line_of(file: str, text: str) -> int:
    """The number of the only line of ``tests/support/cuda/<file>.cu`` that holds ``text``."""
    lines = (KERNELS / f"{file}.cu").read_text().splitlines()
    (found,) = (number for number, line in enumerate(lines, 1) if text in line)
    return found


def findings(
    file: str,
    entry: str,
    *args: Any,
    grid: int = 1,
    threads: int = 32,
    shared_bytes: int = 4096,
    seed: int = 0,
    **options: Any,
) -> list[Finding]:
    """Launch ``entry`` on a checked device of its own; arrays among ``args`` are written in place."""
    device = CheckedDevice(collect=True, seed=seed, **options)
    source = KernelSource(path=KERNELS / f"{file}.cu", include_dir=resource_dir("kernels_cuda"))
    device.load(source).launch(
        Launch(entry=entry, grid=(grid, 1, 1), block=(threads, 1, 1), args=args, shared_bytes=shared_bytes)
    )
    return device.findings
