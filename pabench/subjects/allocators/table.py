# SPDX-License-Identifier: Apache-2.0
"""The allocators by name: ours, and those of other projects.  No package of another project is imported."""

from __future__ import annotations

from pabench.subjects.allocators.adapters import (
    sglang,
    sglang_radix,
    torch_paged,
    transformers,
    transformers_sectors,
    vllm,
)
from pabench.subjects.peers.named import NamedSubject

_ROOM = "pabench.subjects.allocators"

ALLOCATORS: dict[str, NamedSubject] = {
    "scan": NamedSubject(
        about="on the device: tables, counts and free ring in its memory, one launch a step, the model's ids",
        place=f"{_ROOM}.scan:ScanAllocator",
    ),
    "scan-prefix": NamedSubject(
        about="scan that serves a batch in part, up to the first request that lacks pages",
        place=f"{_ROOM}.scan:ScanPrefix",
    ),
    "ticket": NamedSubject(
        about="on the device: a ring with tickets, each thread a request, one atomic operation a warp",
        place=f"{_ROOM}.pool:TicketAllocator",
    ),
    "stack": NamedSubject(
        about="on the device: a lock-free stack, each thread a request, tagged against pages that come back",
        place=f"{_ROOM}.pool:StackAllocator",
    ),
    "host": NamedSubject(
        about="on the host: the whole specification on numpy arrays, a decode step in one call",
        place=f"{_ROOM}.host:HostAllocator",
    ),
    "host-groups": NamedSubject(
        about="on the host: full, window and state layers, KV groups that share one pool",
        place=f"{_ROOM}.host_groups:HostGroups",
    ),
    "host-reuse": NamedSubject(
        about="on the host: hits that go on within a page, forks that copy, eviction by priority and time",
        place=f"{_ROOM}.host_reuse:HostReuse",
    ),
    # the reference model belongs to the judge; by name it can be asked to serve as a subject too
    "model": NamedSubject(
        about="the specification in plain Python: a queue of free pages, oldest first",
        place="pabench.judge.allocators.model:ModelAllocator",
    ),
    "contiguous": NamedSubject(
        about="before paging: room for the longest length, in one piece",
        place=f"{_ROOM}.reserving:ContiguousAllocator",
    ),
    "buddy": NamedSubject(
        about="before paging: a power of two of tokens to come, in a power of two of pages",
        place=f"{_ROOM}.reserving:BuddyAllocator",
    ),
    "oracle-length": NamedSubject(
        about="before paging: room for the known final length, in one piece",
        place=f"{_ROOM}.reserving:OracleLengthAllocator",
    ),
    "buddy-max": NamedSubject(
        about="before paging: room for the longest length, in a power of two of pages",
        place=f"{_ROOM}.reserving:BuddyMaxAllocator",
    ),
    "buddy-oracle": NamedSubject(
        about="before paging: room for the known final length, in a power of two of pages",
        place=f"{_ROOM}.reserving:BuddyOracleAllocator",
    ),
    "vllm-block-pool": NamedSubject(
        about="vLLM's BlockPool, without prefix caching",
        place=f"{_ROOM}.adapters.vllm:VllmBlockPool",
        peers=(vllm.PEER,),
    ),
    "vllm-kv-cache-manager": NamedSubject(
        about="vLLM's KVCacheManager: one group of full attention, without prefix caching",
        place=f"{_ROOM}.adapters.vllm:VllmKvCacheManager",
        peers=(vllm.PEER,),
    ),
    "vllm-prefix-cache": NamedSubject(
        about="vLLM's KVCacheManager: one group of full attention, with prefix caching",
        place=f"{_ROOM}.adapters.vllm_cache:VllmPrefixCache",
        peers=(vllm.PEER,),
    ),
    "vllm-kv-groups": NamedSubject(
        about="vLLM's KVCacheManager: groups of full attention and of windows, without prefix caching",
        place=f"{_ROOM}.adapters.vllm_groups:VllmKvGroups",
        peers=(vllm.PEER,),
    ),
    "vllm-hybrid-cache": NamedSubject(
        about="vLLM's KVCacheManager: groups of full attention and of windows, with prefix caching",
        place=f"{_ROOM}.adapters.vllm_groups:VllmHybridCache",
        peers=(vllm.PEER,),
    ),
    "sglang-paged": NamedSubject(
        about="SGLang's PagedTokenToKVPoolAllocator on the host",
        place=f"{_ROOM}.adapters.sglang:SglangPaged",
        peers=(sglang.PEER,),
    ),
    "sglang-radix-cache": NamedSubject(
        about="SGLang's RadixCache over its allocator: a tree of prefixes that evicts whole nodes",
        place=f"{_ROOM}.adapters.sglang_radix:SglangRadixCache",
        peers=(sglang_radix.PEER,),
    ),
    "transformers-block-manager": NamedSubject(
        about="transformers' BlockManager of continuous batching, as until 5.23",
        place=f"{_ROOM}.adapters.transformers:TransformersBlockManager",
        peers=(transformers.PEER,),
    ),
    "transformers-paged-cache": NamedSubject(
        about="transformers' PagedAttentionCache of continuous batching: sectors and blocks, since 5.24",
        place=f"{_ROOM}.adapters.transformers_sectors:TransformersPagedCache",
        peers=(transformers_sectors.PEER,),
    ),
    "torch-paged": NamedSubject(
        about="torch's experimental PagedAttention: its page table",
        place=f"{_ROOM}.adapters.torch_paged:TorchPaged",
        peers=(torch_paged.PEER,),
    ),
}
