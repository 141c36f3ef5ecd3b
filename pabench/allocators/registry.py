"""Makes allocators by name."""

from __future__ import annotations

from pabench.allocators.base import PageAllocator, PoolShape
from pabench.allocators.model import ModelAllocator
from pabench.allocators.scan import ScanAllocator
from pabench.device.base import Device
from pabench.errors import UnknownName

ALLOCATORS = ("scan", "model")


def make_allocator(name: str, device: Device, shape: PoolShape) -> PageAllocator:
    """Return an empty allocator; raises ``UnknownName``."""
    if name == "scan":
        return ScanAllocator(device, shape)
    if name == "model":
        return ModelAllocator(shape)
    raise UnknownName("allocator", name, ALLOCATORS)
