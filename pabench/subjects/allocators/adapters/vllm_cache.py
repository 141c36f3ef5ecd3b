# SPDX-License-Identifier: Apache-2.0
"""vLLM: its KVCacheManager with prefix caching, over one group of full-attention layers.

Keys are vLLM's own: its hash of a block over its parent, its tokens, and what tells requests apart (LoRA,
salt, images).  The hash function is a parameter of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from pabench.errors import InvalidCase
from pabench.problem.checks import whole_number
from pabench.subjects.allocators.adapters.vllm import (
    HASHES,
    PEER,
    VllmKvCacheManager,
    hash_tokens,
    new_manager,
    running_request,
)
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.allocators.results import NULL_PAGE, Hit, Prompt


class VllmPrefixCache(VllmKvCacheManager):
    """vLLM's manager of requests; pages are cached when they are committed.

    Conventions: a request's tokens never change in vLLM, so that the caller refuses others than before; a hit
    is looked up again when it is adopted, as vLLM's scheduler does both in one step; an empty prompt is
    neither looked up nor cached.
    """

    name = "vllm-prefix-cache"
    capabilities = Capabilities(
        operations=frozenset({"alloc", "append", "free", "commit", "lookup", "adopt", "reset"}),
        order="set",
        reserved_pages=frozenset({0}),
        images=True,
        duplicates=True,
    )

    def start(self) -> None:
        """See ``CallerAllocator``."""
        modules, size = PEER.load(), hash_tokens(self.shape)
        self.manager = new_manager(modules, self.shape, caching=True)
        modules[HASHES].init_none_hash(_digest)
        self._hashes = modules[HASHES].get_request_block_hasher(size, _digest)
        self._committed: dict[int, list[bytes]] = {}

    @property
    def free_pages(self) -> int:
        """See ``PageAllocator``; vLLM counts cached blocks that nobody uses as free."""
        return super().free_pages - self.evictable_pages

    @property
    def evictable_pages(self) -> int:
        """See ``PageAllocator``."""
        blocks = self.manager.block_pool.blocks[1:]
        return sum(block.ref_cnt == 0 and block.block_hash is not None for block in blocks)

    def commit(self, sequence: int, prompt: Prompt) -> None:
        """See ``PageAllocator``: ``cache_blocks``."""
        sequence = self.live(sequence)
        count = whole_number("tokens of the prompt", len(prompt.tokens), low=0, high=self._held(sequence))
        request = self._request(sequence, prompt)
        before, now = self._committed.get(sequence, []), request.block_hashes
        if any(old != new for old, new in zip(before, now, strict=False)):
            raise InvalidCase("prompt", prompt, "must be that of the pages committed before")
        if count:
            self.asked(lambda: self.manager.cache_blocks(request, count), "the prompt")
        self._committed[sequence] = max(before, now, key=len)

    def lookup(self, prompt: Prompt) -> Hit:
        """See ``PageAllocator``: ``get_computed_blocks``."""
        return Hit(prompt=prompt, pages=self._found(prompt)[1])

    def adopt(self, sequence: int, hit: Hit) -> None:
        """See ``PageAllocator``: ``allocate_slots`` of no new tokens behind the computed ones."""
        sequence = self.check_index(sequence)
        if self._lengths[sequence] >= 0:
            raise InvalidCase("sequence", sequence, "must not be live")
        blocks, pages = self._found(hit.prompt)
        tokens = len(hit.pages) // self.shape.block_pages * self.shape.page_size
        less = 0 < len(hit.pages) <= len(pages)
        kept = self.manager.truncate_computed_blocks(blocks, tokens) if less else None
        if hit.pages != _ids(kept) or hit.part:
            raise InvalidCase("hit", hit.pages, "must be cached still; look it up again")
        self.check_length(sequence, tokens)
        if tokens:
            request = running_request(sequence, 0)
            # they are cached already
            self.asked(
                lambda: self.manager.allocate_slots(request, 0, tokens, kept, delay_cache_blocks=True),
                "the hit",
            )
        self._rows[sequence], self._lengths[sequence] = list(hit.pages), tokens
        hashes = self._request(sequence, hit.prompt).block_hashes
        self._committed[sequence] = hashes[: tokens // hash_tokens(self.shape)]

    def give(self, sequences: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
        """See ``CallerAllocator``."""
        super().give(sequences, rows)
        for sequence in sequences:
            self._committed.pop(sequence, None)

    # --- parts ----------------------------------------------------------------------------------------

    def _held(self, sequence: int) -> int:
        return int(self._lengths[sequence])

    def _found(self, prompt: Prompt) -> tuple[Any, tuple[int, ...]]:
        """The blocks that are cached of a prompt, and their ids."""
        if not prompt.tokens:
            return None, ()
        request = self._request(-1, prompt)
        blocks, _, _ = self.asked(lambda: self.manager.get_computed_blocks(request), "the prompt")
        return blocks, _ids(blocks)

    def _request(self, sequence: int, prompt: Prompt) -> SimpleNamespace:
        """What the manager and its hashes read of a request with these tokens, all of them computed."""
        request = running_request(sequence, len(prompt.tokens))
        request.num_prompt_tokens = len(prompt.tokens)
        lora = SimpleNamespace(lora_name=prompt.adapter, lora_path=prompt.adapter)
        request.lora_request = lora if prompt.adapter else None
        request.cache_salt, request.prompt_embeds = prompt.salt or None, None
        request.mm_features = [
            SimpleNamespace(identifier=key, mm_position=SimpleNamespace(offset=first, length=count))
            for first, count, key in prompt.images
        ]
        request.all_token_ids, request.skip_reading_prefix_cache = prompt.tokens, False
        request.shared_prefix_boundary = 0
        request.block_hashes = self._hashes(request)
        return request


def _ids(blocks: Any) -> tuple[int, ...]:
    """Pages of blocks, group behind group; vLLM's null block stands for none."""
    groups = blocks.blocks if blocks else ()
    return tuple(block.block_id or NULL_PAGE for group in groups for block in group)


def _digest(key: Any) -> bytes:
    return hashlib.sha256(repr(key).encode()).digest()
