"""Makes allocators by name."""

from __future__ import annotations

from pabench.allocators.base import PageAllocator, PoolShape
from pabench.allocators.model import ModelAllocator
from pabench.allocators.scan import ScanAllocator
from pabench.device.base import Device
from pabench.errors import UnknownName

ALLOCATORS = {
    "scan": "on the device: table, lengths and free ring in its memory, one launch a step",
    "model": "the specification in plain Python: a queue of free pages, oldest first",
}


def make_allocator(name: str, device: Device, shape: PoolShape) -> PageAllocator:
    """Return an empty allocator.

    Raises:
        UnknownName: no such allocator.
        Unsupported: it lacks what the shape asks for.
    """
    if name == "scan":
        return ScanAllocator(device, shape)
    if name == "model":
        return ModelAllocator(shape)
    raise UnknownName("allocator", name, ALLOCATORS)
