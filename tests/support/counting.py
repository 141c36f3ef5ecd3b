# SPDX-License-Identifier: Apache-2.0
"""Runs the kernels of kernels/counts.cu on a device that only counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pabench.device.base import KernelSource, Launch
from pabench.device.checked import CheckedDevice
from pabench.device.counters import Counters
from pabench.resources import resource_dir

FILE = Path(__file__).resolve().parents[1] / "support" / "cuda" / "counts.cu"
WORD = np.dtype(np.uint32)


def counting_device(**options: Any) -> CheckedDevice:
    return CheckedDevice(checks=(), count=True, **options)


def count(
    entry: str,
    *args: Any,
    threads: int = 32,
    blocks: int = 1,
    shared_bytes: int = 0,
    device: CheckedDevice | None = None,
) -> Counters:
    """Counters of one launch; ``args`` are arrays of the device or numpy scalars."""
    device = device or counting_device()
    source = KernelSource(path=FILE, include_dir=resource_dir("kernels_cuda"), defines={"PAB_DTYPE": "0"})
    launch = Launch(
        entry=entry, grid=(blocks, 1, 1), block=(threads, 1, 1), args=args, shared_bytes=shared_bytes
    )
    device.load(source).launch(launch)
    assert device.last_counters is not None
    return device.last_counters


def words(count: int) -> Any:
    return np.zeros(count, WORD)


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(FILE.read_text().splitlines(), 1) if text in line)
