# SPDX-License-Identifier: Apache-2.0
"""Which architecture a device's kernels are compiled for."""

from __future__ import annotations

from pabench.device.base import Device, device_kind
from pabench.device.ptx.architectures import KIND, read_name


def architecture_of(device: Device) -> str | None:
    """Return such as ``sm_80`` or ``sm_90a``; None on the emulated device, which has none.

    A GPU of compute capability 9.0 or later has what its architecture alone has, which the letter stands for.
    """
    kind = device_kind(device.name)
    if kind == KIND:
        return read_name(device.name).architecture
    if kind != "cuda":
        return None
    capability = gpu_capability()
    return f"sm_{capability}{'a' if capability >= 90 else ''}"


def gpu_capability() -> int:
    """Return the compute capability of the current GPU, times ten."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    return 10 * int(properties["major"]) + int(properties["minor"])


def capability_of(architecture: str) -> int:
    """Return the compute capability, times ten, of a name such as ``sm_90a``."""
    return int("".join(filter(str.isdigit, architecture)))
