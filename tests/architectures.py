"""What launch plans need to know of the architectures that kernels are compiled for."""

from __future__ import annotations

from pabench.device.base import DeviceLimits

KIB = 1024
LIMITS = {
    "sm_80": (163 * KIB, 164 * KIB),
    "sm_90a": (227 * KIB, 228 * KIB),
    "sm_100a": (227 * KIB, 228 * KIB),
    "sm_120": (99 * KIB, 100 * KIB),
}
"""Shared memory of a block and of a multiprocessor: CUDA C++ programming guide, technical specifications."""


def limits_of(architecture: str) -> DeviceLimits:
    """Return the limits of a device of ``architecture`` with 100 multiprocessors."""
    block, sm = LIMITS[architecture]
    return DeviceLimits(multiprocessors=100, shared_bytes_per_block=block, shared_bytes_per_sm=sm)
