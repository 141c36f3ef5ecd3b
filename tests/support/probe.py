# SPDX-License-Identifier: Apache-2.0
"""Runs the small kernels of tests/kernels on the emulated device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pabench.device.base import KernelSource, Launch
from pabench.device.emulated import EmulatedDevice
from pabench.resources import resource_dir

KERNELS = Path(__file__).resolve().parents[1] / "support" / "cuda"
DEVICE = EmulatedDevice()


def probe(
    file: str,
    entry: str,
    *args: Any,
    grid: tuple[int, int, int] = (1, 1, 1),
    block: tuple[int, int, int] = (32, 1, 1),
    shared_bytes: int = 0,
    seed: int = 0,
    device: EmulatedDevice = DEVICE,
) -> None:
    """Launch ``entry`` of ``tests/support/cuda/<file>.cu``; arrays among ``args`` are written in place."""
    source = KernelSource(path=KERNELS / f"{file}.cu", include_dir=resource_dir("kernels_cuda"))
    device.reschedule(seed)
    device.load(source).launch(
        Launch(entry=entry, grid=grid, block=block, args=args, shared_bytes=shared_bytes)
    )
