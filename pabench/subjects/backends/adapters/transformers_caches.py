# SPDX-License-Identifier: Apache-2.0
"""transformers: the cache object of its continuous batching, filled in from a pool, in both of its forms.

The cache's own ``update`` writes the new tokens (here the bits that are there) and gathers what is read.
Its constructor is not run: it measures the machine's memory and allocates a pool of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol

import torch

from pabench.problem.tensors import Tensors
from pabench.subjects.backends.torch_tensors import TORCH_DTYPES, upload
from pabench.subjects.peers.transformers import CACHE

SECTOR_ALIGNMENT = 128
"""Bytes of which a sector is a multiple, as the cache's constructor has it."""
TRASH_SECTORS = 2
"""Sectors before the first that is granted; padding reads and writes there."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PagedPlan:
    """One batch; ``found`` holds its output after ``run``.

    Attributes:
        module: what the attention function reads of a model's attention layer.
        query: ``(1, num_qo_heads, rows, head_dim)``.
        new: ``key`` and ``value`` of the new tokens, ``(1, num_kv_heads, tokens, head_dim)``.
        rest: mask and scale, by the names of the attention function.
        cache: the package's cache object.
        read, write: rows of the cache that are read, and that the new tokens lie in.
        shape: of the output that the case asks for.
    """

    module: SimpleNamespace
    query: torch.Tensor
    new: dict[str, torch.Tensor]
    rest: dict[str, Any]
    cache: Any
    read: torch.Tensor
    write: torch.Tensor
    shape: tuple[int, ...]
    found: list[torch.Tensor]


class Cache(Protocol):
    """A form of the cache."""

    def made(self, tensors: Tensors) -> Any:
        """Return the package's cache object with the pool of ``tensors``."""
        ...

    def rows(self, cache: Any, slots: torch.Tensor) -> torch.Tensor:
        """Return the rows of the cache in which slots of the pool lie, int64."""
        ...

    def stored(self, cache: Any, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values in rows of the cache, ``(rows, num_kv_heads, head_dim)`` each."""
        ...

    def attend(self, function: Any, plan: PagedPlan) -> torch.Tensor:
        """Write the new tokens, gather, attend; return the output."""
        ...


def cache_of(modules: Mapping[str, ModuleType], where: torch.device) -> Cache:
    """Return the form that this version of the package has."""
    module = modules[CACHE]
    return SectorCache(module, where) if hasattr(module, "CachePool") else SlotCache(module, where)


class SlotCache:
    """Until 5.17: rows of slots, K and V apart; the attention function calls ``update`` itself."""

    def __init__(self, module: Any, where: torch.device) -> None:
        self._type, self._where = module.PagedAttentionCache, where

    def made(self, tensors: Tensors) -> Any:
        """See ``Cache``."""
        cache = object.__new__(self._type)
        # a copy in any case: the function writes into it
        cache.key_cache, cache.value_cache = (
            [pages.flatten(0, 1).clone(memory_format=torch.contiguous_format)]
            for pages in _pages(tensors, self._where)
        )
        cache.layer_index_to_group_indices = {0: (0, 0)}
        cache.sliding_windows = {0: 1}  # 1 for a layer that keeps all its keys, as the pool does
        return cache

    def rows(self, cache: Any, slots: torch.Tensor) -> torch.Tensor:
        """See ``Cache``."""
        return slots

    def stored(self, cache: Any, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Cache``."""
        return cache.key_cache[0][rows], cache.value_cache[0][rows]

    def attend(self, function: Any, plan: PagedPlan) -> torch.Tensor:
        """See ``Cache``."""
        given = {"cache": plan.cache, "read_index": [plan.read], "write_index": [plan.write]}
        out, _ = function(plan.module, plan.query, **plan.new, **plan.rest, **given)
        found: torch.Tensor = out
        return found


class SectorCache:
    """Since 5.24: one tensor of sectors, in which a block has its keys and then its values."""

    def __init__(self, module: Any, where: torch.device) -> None:
        self._module, self._where = module, where

    def made(self, tensors: Tensors) -> Any:
        """See ``Cache``."""
        problem = tensors.case.problem
        keys, values = _pages(tensors, self._where)
        allocator = self._module.FullAttentionCacheAllocator(
            index=0,
            config=SimpleNamespace(head_dim=problem.head_dim),
            num_key_value_heads=problem.num_kv_heads,
            cache_dtype=TORCH_DTYPES[problem.dtype],
            page_size=problem.page_size,
            layer_indices=[0],
            allow_block_sharing=False,
        )
        sector = math.lcm(allocator.bytes_per_block, SECTOR_ALIGNMENT)
        sectors = -(-len(keys) * allocator.bytes_per_block // sector)
        tensor = torch.zeros((TRASH_SECTORS + sectors) * sector, dtype=torch.uint8, device=self._where)
        allocator.register_cache_tensor(sector, sectors * sector, tensor, self._module.CachePool(sectors, 1))
        places = _first_block(allocator) + torch.arange(len(keys), device=self._where)
        pages = allocator.block_physical_stride // problem.page_size
        for view, given in zip(allocator.get_cache_for_block_table(0), (keys, values), strict=True):
            view[places * pages] = given
        cache = object.__new__(self._module.PagedAttentionCache)
        cache.layer_to_allocator = {0: allocator}
        return cache

    def rows(self, cache: Any, slots: torch.Tensor) -> torch.Tensor:
        """See ``Cache``."""
        allocator = cache.layer_to_allocator[0]
        size, stride = allocator.tokens_per_page, allocator.block_physical_stride
        found: torch.Tensor = (_first_block(allocator) + slots // size) * stride + slots % size
        return found

    def stored(self, cache: Any, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Cache``."""
        keys, values = cache.layer_to_allocator[0].get_cache_for_block_table(0)
        return keys.flatten(0, 1)[rows], values.flatten(0, 1)[rows]

    def attend(self, function: Any, plan: PagedPlan) -> torch.Tensor:
        """See ``Cache``; a layer calls ``update`` first, and the function sees keys and values alone."""
        kind = plan.cache.layer_to_allocator[0].layer_type
        given = {"read_index": [plan.read], "write_index": [plan.write]}
        lengths = {"cu_seq_lens_k": {kind: plan.read}, "max_length_k": {kind: 0}}  # for flash alone
        keys, values = plan.cache.update(plan.new["key"], plan.new["value"], 0, {**given, **lengths})
        out, _ = function(plan.module, plan.query, keys, values, **plan.rest)
        found: torch.Tensor = out
        return found


def _first_block(allocator: Any) -> int:
    first: int = TRASH_SECTORS * allocator.blocks_per_sector
    return first


def _pages(tensors: Tensors, where: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values ``(num_pages, page_size, num_kv_heads, head_dim)``, views of one upload."""
    pool = tensors.pool.with_storage(upload(tensors.pool.storage, tensors.case.problem.dtype, where))
    keys, values = (view if pool.kv_layout == "NHD" else view.transpose(1, 2) for view in (pool.k, pool.v))
    return keys, values
