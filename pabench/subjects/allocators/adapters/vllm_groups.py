# SPDX-License-Identifier: Apache-2.0
"""vLLM: its KVCacheManager over several groups, of layers with full attention and with windows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pabench.problem.dtypes import Array
from pabench.subjects.allocators.adapters.vllm import VllmKvCacheManager
from pabench.subjects.allocators.adapters.vllm_cache import VllmPrefixCache
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.allocators.results import NULL_PAGE, Granted, Prompt


class VllmKvGroups(VllmKvCacheManager):
    """vLLM's manager; the tables are its own, in which block 0 stands for what a window gave up.

    Convention: it is asked for room for each new token, also where no page is needed, as its scheduler does:
    then the windows slide.
    """

    name = "vllm-kv-groups"
    capabilities = Capabilities(
        operations=frozenset({"alloc", "append", "free", "reset"}),
        order="set",
        reserved_pages=frozenset({0}),
        groups=frozenset({"full", "window"}),
    )

    def block_table(self) -> Array:
        """See ``PageAllocator``."""
        shape = self.shape
        table = np.full((shape.max_seqs, len(shape.kv_groups), shape.max_pages_per_seq), NULL_PAGE, np.int32)
        for sequence in np.flatnonzero(self._lengths > 0).tolist():
            for group, blocks in enumerate(self.manager.get_block_ids(str(sequence))):
                table[sequence, group, : len(blocks)] = blocks
        table[table == 0] = NULL_PAGE
        return table.reshape(shape.max_seqs, shape.columns)

    def _grow(self, sequence: int, row: list[int], length: int, tokens: int) -> Granted:
        groups, end = self.shape.kv_groups, length + tokens
        self.check_length(sequence, end)
        pages = sum(group.pages(end) - group.pages(max(length, 0)) for group in groups if end >= 0)
        if tokens:
            self._taken(sequence, pages, end)
        if tokens < 0:
            return Granted(new_slots=np.empty(0, np.int64))
        self._lengths[sequence] = end
        position, slots = np.arange(length, end), []
        blocks = self.manager.get_block_ids(str(sequence)) if end else [[]] * len(groups)
        self._rows[sequence] = [block for group in blocks for block in group]
        for group, held in zip(groups, blocks, strict=True):
            page = np.array(held, np.int64)[position // group.page_size] if tokens else position
            slots.append(page * group.page_size + position % group.page_size)
        return Granted(new_slots=np.concatenate(slots))


class VllmHybridCache(VllmKvGroups, VllmPrefixCache):
    """The same with prefix caching: of a window vLLM caches the pages alone that a hit can end at."""

    name = "vllm-hybrid-cache"
    capabilities = Capabilities(
        operations=frozenset({"alloc", "append", "free", "commit", "lookup", "adopt", "reset"}),
        order="set",
        reserved_pages=frozenset({0}),
        hits="any",
        groups=frozenset({"full", "window"}),
    )

    def _found(self, prompt: Prompt) -> tuple[Any, tuple[int, ...]]:
        """See ``VllmPrefixCache``; a single group has hits between multiples of ``page_size`` too."""
        blocks, pages = super()._found(prompt)
        tokens = len(blocks.blocks[0]) * self.shape.kv_groups[0].page_size if pages else 0
        if odd := tokens % self.shape.page_size:
            return self._found(replace(prompt, tokens=prompt.tokens[: tokens - odd + 1]))
        return blocks, pages
