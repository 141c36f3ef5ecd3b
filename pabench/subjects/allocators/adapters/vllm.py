# SPDX-License-Identifier: Apache-2.0
"""vLLM: its BlockPool, and its KVCacheManager over one group of full-attention layers.

Neither caches prefixes here, ``vllm_cache.py`` does.  Block 0 is vLLM's null block and is never granted; free
blocks are reused last in, first out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pabench.problem.dtypes import Array
from pabench.subjects.allocators.adapters.caller import CallerAllocator, CuttingAllocator
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.peers.package import ThirdPartyPackage

POOL = "vllm.v1.core.block_pool"
MANAGER = "vllm.v1.core.kv_cache_manager"
INTERFACE = "vllm.v1.kv_cache_interface"
HASHES = "vllm.v1.core.kv_cache_utils"


class _Unused:
    """Stands for a class that the allocator names but never makes."""

    def __class_getitem__(cls, item: object) -> type:
        return cls


class _Status(IntEnum):
    WAITING, RUNNING, PREEMPTED = range(3)


def _replaced(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    unused = {
        "vllm.config": ("VllmConfig",),
        "vllm.distributed.kv_events": ("AllBlocksCleared", "BlockRemoved", "BlockStored", "KVCacheEvent"),
        "vllm.multimodal.utils": ("get_mm_features_in_window",),
        "vllm.utils.hashing": ("xxhash", "xxhash_cbor"),
        "vllm.utils.torch_utils": ("get_dtype_size",),
        "vllm.v1.hisparse.block_pool": ("SharedEventQueueBlockPool",),
        "vllm.v1.metrics.stats": ("KVCacheEvictionEvent", "PrefixCacheStats"),
        "vllm.v1.utils": ("tensor_data",),
    }
    modules: dict[str, dict[str, Any]] = {
        name: {attribute: _Unused for attribute in names} for name, names in unused.items()
    }
    modules["vllm.config"]["get_current_vllm_config_or_none"] = lambda: None
    modules["vllm.distributed.kv_events"] |= {"MEDIUM_GPU": "GPU", "MEDIUM_CPU": "CPU"}
    modules["vllm.utils.torch_utils"]["get_dtype_size"] = lambda dtype: dtype.itemsize
    backends = SimpleNamespace(MAMBA2="MAMBA2")
    modules["vllm.v1.attention.backends.registry"] = {"MambaAttentionBackendEnum": backends}
    modules["vllm.logger"] = {"init_logger": logging.getLogger}
    modules["vllm.envs"] = {}
    # asked whether it has layer kinds of its own
    platform = SimpleNamespace(register_custom_kv_cache_specs=lambda config: None)
    modules["vllm.platforms"] = {"current_platform": platform}
    modules["vllm.v1.request"] = {"Request": _Unused, "RequestStatus": _Status}
    return modules


def new_manager(modules: Mapping[str, Any], shape: PoolShape, *, caching: bool = False) -> Any:
    """Make a manager of the pool's groups, of layers with full attention or windows; other sizes of a layer
    do not matter to it."""
    import torch

    interface, groups = modules[INTERFACE], []
    for number, group in enumerate(shape.kv_groups):
        sizes = {"block_size": group.page_size, "num_kv_heads": 1, "head_size": 16, "dtype": torch.float16}
        if group.kind == "window":
            spec = interface.SlidingWindowSpec(**sizes, sliding_window=group.window)
        else:
            spec = interface.FullAttentionSpec(**sizes)
        groups.append(interface.KVCacheGroupSpec([f"layer {number}"], spec))
    config = interface.KVCacheConfig(
        num_blocks=shape.num_pages + 1, kv_cache_tensors=[], kv_cache_groups=groups
    )
    return modules[MANAGER].KVCacheManager(
        config,
        max_model_len=shape.max_tokens,
        scheduler_block_size=shape.page_size,
        hash_block_size=hash_tokens(shape),
        enable_caching=caching,
    )


def hash_tokens(shape: PoolShape) -> int:
    """Return the tokens of a hash: as many as divide the pages of all groups."""
    return math.gcd(*(group.page_size for group in shape.kv_groups))


def _warm(modules: Mapping[str, Any]) -> None:
    """Make one, so that the registry of layer kinds fills."""
    new_manager(modules, PoolShape(num_pages=1, page_size=1, max_seqs=1, max_pages_per_seq=1))


PEER = ThirdPartyPackage(
    package="vllm",
    version="0.33.0",
    modules=(POOL, MANAGER, INTERFACE, HASHES),
    bare=(
        *("vllm", "vllm.distributed", "vllm.multimodal", "vllm.utils", "vllm.v1", "vllm.v1.attention"),
        *("vllm.v1.attention.backends", "vllm.v1.core", "vllm.v1.hisparse", "vllm.v1.metrics"),
    ),
    replaced=_replaced,
    warm=_warm,
)


class VllmBlockPool(CuttingAllocator):
    """vLLM's pool of blocks, as one that calls it directly sees it."""

    name = "vllm-block-pool"
    capabilities = Capabilities(
        operations=frozenset({"alloc", "append", "truncate", "free", "reset"}),
        order="set",
        reserved_pages=frozenset({0}),
    )

    def start(self) -> None:
        """See ``CallerAllocator``."""
        shape = self.shape
        self._pool = PEER.load()[POOL].BlockPool(shape.num_pages + 1, False, shape.page_size)

    @property
    def free_pages(self) -> int:
        """See ``PageAllocator``."""
        return int(self._pool.get_num_free_blocks())

    def refcounts(self) -> Array:
        """See ``PageAllocator``; that of the null block is not kept."""
        return np.array([0, *(block.ref_cnt for block in self._pool.blocks[1:])], np.int32)

    def take(self, sequence: int, pages: int, length: int) -> list[int] | None:
        """See ``CallerAllocator``."""
        return [block.block_id for block in self._pool.get_new_blocks(pages)]

    def give(self, sequences: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
        """See ``CallerAllocator``; last block first, as vLLM's own callers do."""
        self._pool.free_blocks([self._pool.blocks[page] for row in rows for page in reversed(row)])


class VllmKvCacheManager(CallerAllocator):
    """vLLM's manager of requests; a sequence is a request.

    Convention: ``allocate_slots`` is not called for 0 tokens, which it refuses.
    """

    name = "vllm-kv-cache-manager"
    capabilities = Capabilities(
        operations=frozenset({"alloc", "append", "free", "reset"}),
        order="set",
        reserved_pages=frozenset({0}),
    )

    def start(self) -> None:
        """See ``CallerAllocator``."""
        self.manager = new_manager(PEER.load(), self.shape)

    @property
    def free_pages(self) -> int:
        """See ``PageAllocator``."""
        return int(self.manager.block_pool.get_num_free_blocks())

    def refcounts(self) -> Array:
        """See ``PageAllocator``; that of the null block is not kept."""
        return np.array([0, *(block.ref_cnt for block in self.manager.block_pool.blocks[1:])], np.int32)

    def take(self, sequence: int, pages: int, length: int) -> list[int] | None:
        """See ``CallerAllocator``."""
        held = max(int(self._lengths[sequence]), 0)
        # what has been computed is cached when it is committed
        blocks = self.manager.allocate_slots(
            running_request(sequence, held), length - held, delay_cache_blocks=True
        )
        return None if blocks is None else [block.block_id for block in blocks.blocks[0]]

    def give(self, sequences: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
        """See ``CallerAllocator``."""
        for sequence in sequences:
            self.manager.free(running_request(sequence, 0))


def running_request(sequence: int, computed: int) -> SimpleNamespace:
    """Return what the manager reads of a request that has ``computed`` tokens."""
    return SimpleNamespace(
        request_id=str(sequence),
        num_computed_tokens=computed,
        num_tokens=computed,
        num_prompt_tokens=0,
        num_in_flight_tokens=0,
        num_preemptions=0,
        status=_Status.RUNNING,
        block_hashes=[],
    )
