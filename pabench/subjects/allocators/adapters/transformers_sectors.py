# SPDX-License-Identifier: Apache-2.0
"""transformers since 5.24: the paged cache of its continuous batching, sectors of blocks.

One allocator, of full attention, has all sectors; a sector is one block here.  Block ids start behind the two
sectors for padding.  The cache's constructor, which measures the machine's memory, is not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from pabench.subjects.allocators.adapters.caller import CallerAllocator
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.peers.package import ThirdPartyPackage
from pabench.subjects.peers.transformers import CACHE, TRANSFORMERS

PEER = ThirdPartyPackage(
    package="transformers",
    version="5.24.0",
    modules=(CACHE,),
    bare=TRANSFORMERS.bare,
    replaced=TRANSFORMERS.replaced,
)
HEAD_DIM = 64
"""With one head and bytes for numbers a block of any page size is a multiple of 128 bytes: a sector."""


class TransformersPagedCache(CallerAllocator):
    """transformers' PagedAttentionCache: who gets which sector and block."""

    name = "transformers-paged-cache"
    capabilities = Capabilities(operations=frozenset({"alloc", "append", "free", "reset"}), order="set")

    def start(self) -> None:
        """See ``CallerAllocator``."""
        import torch

        module, shape = PEER.load()[CACHE], self.shape
        blocks = module.FullAttentionCacheAllocator(
            index=0,
            config=SimpleNamespace(head_dim=HEAD_DIM),
            num_key_value_heads=1,
            cache_dtype=torch.uint8,
            page_size=shape.page_size,
            layer_indices=[0],
            allow_block_sharing=True,
        )
        pool = module.CachePool(shape.num_pages, 1)
        nbytes = blocks.bytes_per_block
        # nobody writes to the cache: its tensor has a size and no memory
        tensor = torch.empty(
            (shape.num_pages + pool.num_reserved_sectors) * nbytes, dtype=torch.uint8, device="meta"
        )
        blocks.register_cache_tensor(nbytes, shape.num_pages * nbytes, tensor, pool)
        self._cache = object.__new__(module.PagedAttentionCache)
        self._cache.cache_allocators = {blocks.layer_type: blocks}
        self._cache.pool = pool
        self._blocks = blocks

    @property
    def free_pages(self) -> int:
        """See ``PageAllocator``."""
        pool = self._cache.pool
        return int(pool.num_free_sectors + pool.count_free_blocks(self._blocks.index))

    def take(self, sequence: int, pages: int, length: int) -> list[int] | None:
        """See ``CallerAllocator``."""
        past, held = 0, 0
        if self._lengths[sequence] >= 0:
            past, held = int(self._lengths[sequence]), len(self._rows[sequence])
        state = SimpleNamespace(request_id=str(sequence), current_len=lambda: past)
        if not self._cache.can_store_request_tokens(state, length - past):
            return None
        first = self._cache.pool.num_reserved_sectors
        return [block - first for block in self._blocks.block_table[state.request_id][held:]]

    def give(self, sequences: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
        """See ``CallerAllocator``; request by request."""
        for sequence in sequences:
            self._cache.free_blocks(str(sequence))
