"""Makes allocators by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from pabench.device.base import Device
from pabench.errors import UnknownName
from pabench.subjects.allocators.adapters import sglang, torch_paged, transformers, vllm
from pabench.subjects.allocators.adapters.sglang import SglangPaged
from pabench.subjects.allocators.adapters.torch_paged import TorchPaged
from pabench.subjects.allocators.adapters.transformers import TransformersBlockManager
from pabench.subjects.allocators.adapters.vllm import VllmBlockPool, VllmKvCacheManager
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.capabilities import OPERATIONS, Capabilities
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.pool import StackAllocator, TicketAllocator
from pabench.subjects.allocators.reserving import (
    BuddyAllocator,
    BuddyMaxAllocator,
    BuddyOracleAllocator,
    ContiguousAllocator,
    OracleLengthAllocator,
)
from pabench.subjects.allocators.scan import ScanAllocator
from pabench.subjects.peers.peer import Peer

MODEL = "pabench.judge.allocators.model"
"""The reference model belongs to the judge; by name it can be asked to serve as a subject too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorEntry:
    """An allocator that can be made by name.

    Attributes:
        about: one line for lists.
        capabilities: what it declares.
        make: makes an empty one on a device, which those on the host do not use.
        peer: the package of another project that it runs.
        on_device: whether it uses the device that it is made on.
    """

    about: str
    capabilities: Capabilities
    make: Callable[[Device, PoolShape], PageAllocator]
    peer: Peer | None = None
    on_device: bool = False

    def version(self) -> str | None:
        """Return the version of the package that is run, None for our own; raises ``Unsupported``."""
        return None if self.peer is None else self.peer.find().version

    def load(self) -> None:
        """Import what is run, so that a package that cannot be is told before anything is judged.

        Raises:
            Unsupported: the package is absent, too old, or fails to import.
        """
        if self.peer is not None:
            self.peer.load()


ALLOCATORS: dict[str, AllocatorEntry] = {
    "scan": AllocatorEntry(
        about="on the device: tables, counts and free ring in its memory, one launch a step, the model's ids",
        capabilities=ScanAllocator.capabilities,
        make=ScanAllocator,
        on_device=True,
    ),
    "ticket": AllocatorEntry(
        about="on the device: a ring with tickets, each thread a request, one atomic operation a warp",
        capabilities=TicketAllocator.capabilities,
        make=TicketAllocator,
        on_device=True,
    ),
    "stack": AllocatorEntry(
        about="on the device: a lock-free stack, each thread a request, tagged against pages that come back",
        capabilities=StackAllocator.capabilities,
        make=StackAllocator,
        on_device=True,
    ),
    "host": AllocatorEntry(
        about="on the host: the whole specification on numpy arrays, a decode step in one call",
        capabilities=HostAllocator.capabilities,
        make=lambda device, shape: HostAllocator(shape),
    ),
    "model": AllocatorEntry(
        about="the specification in plain Python: a queue of free pages, oldest first",
        capabilities=Capabilities(operations=frozenset(OPERATIONS), watermark=True),
        make=lambda device, shape: _model(shape),
    ),
    "contiguous": AllocatorEntry(
        about="before paging: room for the longest length, in one piece",
        capabilities=ContiguousAllocator.capabilities,
        make=lambda device, shape: ContiguousAllocator(shape),
    ),
    "buddy": AllocatorEntry(
        about="before paging: a power of two of tokens to come, in a power of two of pages",
        capabilities=BuddyAllocator.capabilities,
        make=lambda device, shape: BuddyAllocator(shape),
    ),
    "oracle-length": AllocatorEntry(
        about="before paging: room for the final length, which it is told, in one piece",
        capabilities=OracleLengthAllocator.capabilities,
        make=lambda device, shape: OracleLengthAllocator(shape),
    ),
    "buddy-max": AllocatorEntry(
        about="before paging: room for the longest length, in a power of two of pages",
        capabilities=BuddyMaxAllocator.capabilities,
        make=lambda device, shape: BuddyMaxAllocator(shape),
    ),
    "buddy-oracle": AllocatorEntry(
        about="before paging: room for the final length, which it is told, in a power of two of pages",
        capabilities=BuddyOracleAllocator.capabilities,
        make=lambda device, shape: BuddyOracleAllocator(shape),
    ),
    "vllm-block-pool": AllocatorEntry(
        about="vLLM's BlockPool, without prefix caching",
        capabilities=VllmBlockPool.capabilities,
        make=lambda device, shape: VllmBlockPool(shape),
        peer=vllm.PEER,
    ),
    "vllm-kv-cache-manager": AllocatorEntry(
        about="vLLM's KVCacheManager: one group of full attention, without prefix caching",
        capabilities=VllmKvCacheManager.capabilities,
        make=lambda device, shape: VllmKvCacheManager(shape),
        peer=vllm.PEER,
    ),
    "sglang-paged": AllocatorEntry(
        about="SGLang's PagedTokenToKVPoolAllocator on the host",
        capabilities=SglangPaged.capabilities,
        make=lambda device, shape: SglangPaged(shape),
        peer=sglang.PEER,
    ),
    "transformers-block-manager": AllocatorEntry(
        about="transformers' BlockManager of continuous batching",
        capabilities=TransformersBlockManager.capabilities,
        make=lambda device, shape: TransformersBlockManager(shape),
        peer=transformers.PEER,
    ),
    "torch-paged": AllocatorEntry(
        about="torch's experimental PagedAttention: its page table",
        capabilities=TorchPaged.capabilities,
        make=lambda device, shape: TorchPaged(shape),
        peer=torch_paged.PEER,
    ),
}


def _model(shape: PoolShape) -> PageAllocator:
    made: PageAllocator = importlib.import_module(MODEL).ModelAllocator(shape)
    return made


def allocator_entry(name: str) -> AllocatorEntry:
    """Return an entry of ``ALLOCATORS``; raises ``UnknownName``."""
    if name not in ALLOCATORS:
        raise UnknownName("allocator", name, ALLOCATORS)
    return ALLOCATORS[name]


def make_allocator(name: str, device: Device, shape: PoolShape) -> PageAllocator:
    """Return an empty allocator.

    Raises:
        UnknownName: no such allocator.
        Unsupported: it lacks what the shape asks for.
    """
    return allocator_entry(name).make(device, shape)
