# SPDX-License-Identifier: Apache-2.0
"""A loaded allocator: what its class declares, how to make one, and whether a class is one at all."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pabench.device.base import Device
from pabench.subjects.allocators.base import PageAllocator, PoolShape, offers
from pabench.subjects.allocators.capabilities import Capabilities

NEEDED = ("alloc", "append", "free")
"""Operations without which nothing can be asked of an allocator."""
PROPERTIES = (
    *("free_pages", "evictable_pages", "returning_pages", "free_swap_pages"),
    *("pinned_pages", "free_host_pages", "cached_host_pages"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorEntry:
    """An allocator that is loaded.

    Attributes:
        capabilities: what it declares.
        make: makes an empty one on a device, which those on the host do not use.
        on_device: whether it uses the device that it is made on.
    """

    capabilities: Capabilities
    make: Callable[[Device, PoolShape], PageAllocator]
    on_device: bool = False

    @classmethod
    def of(cls, made: type[PageAllocator], *, name: str | None = None) -> AllocatorEntry:
        """Return the entry of a class; ``name`` is what those made are called, if not as their class says."""
        return cls(capabilities=made.capabilities, make=partial(_make, made, name), on_device=made.on_device)


def _make(made: Any, name: str | None, device: Device, shape: PoolShape) -> PageAllocator:
    allocator: PageAllocator = made(device, shape) if made.on_device else made(shape)
    if name is not None:
        allocator.name = name  # type: ignore[misc]
    return allocator


def misfit(found: Any) -> str | None:
    """Return why an object is no allocator, or None; it is looked at and not called."""
    if not inspect.isclass(found) or not issubclass(found, PageAllocator):
        what = f"class {found.__name__}" if inspect.isclass(found) else type(found).__name__
        return f"is {what}, must be a class that inherits from pabench's PageAllocator"
    kind = found.__name__
    can: Any = found.capabilities
    if not isinstance(can, Capabilities):
        return f"capabilities of {kind} is {type(can).__name__}, must be Capabilities"
    absent = sorted(getattr(found, "__abstractmethods__", ()))
    absent += [name for name in NEEDED if not offers(found, name)]
    absent += sorted(name for name in can.operations if name not in NEEDED and not offers(found, name))
    if absent:
        return f"class {kind} lacks {', '.join(absent)}"
    for name in PROPERTIES:
        if callable(inspect.getattr_static(found, name)):
            return f"{name} of {kind} is a method, must be a property"
    for name in sorted({*can.operations, "lengths", "block_table"}):
        if not _takes(getattr(found, name), inspect.signature(getattr(PageAllocator, name))):
            wanted = inspect.signature(getattr(PageAllocator, name)).parameters
            return f"{name} of {kind} must take ({', '.join([*wanted][1:])})"
    arguments = ("device", "shape") if found.on_device else ("shape",)
    try:
        inspect.signature(found).bind(*arguments)
    except TypeError as error:
        return f"{kind}({', '.join(arguments)}) cannot be called: {error}"
    return None


def _takes(method: Any, wanted: inspect.Signature) -> bool:
    """Whether a method can be called as the protocol's is, by places and by names."""
    if not callable(method):
        return False
    names = [*wanted.parameters]
    by_name = {p.name: None for p in wanted.parameters.values() if p.kind is p.KEYWORD_ONLY}
    placed = [name for name in names if name not in by_name]
    signature = inspect.signature(method)
    try:
        signature.bind(*placed, **by_name)
        signature.bind(placed[0], **dict.fromkeys(placed[1:]), **by_name)
        signature.bind(*placed)
    except TypeError:
        return False
    return True
