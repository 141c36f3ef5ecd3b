# SPDX-License-Identifier: Apache-2.0
"""transformers: the BlockManager of its continuous batching, with blocks that may be shared.

Block ids start at 0; freed blocks queue up, first in first out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pabench.problem.dtypes import Array
from pabench.subjects.allocators.adapters.caller import CuttingAllocator
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.peers.package import ThirdPartyPackage

CACHE = "transformers.generation.continuous_batching.cache_manager"


def _replaced(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    logger = logging.getLogger("transformers")
    return {"transformers.generation.continuous_batching.requests": {"logger": logger}}


PEER = ThirdPartyPackage(
    package="transformers",
    version="5.17.0",
    modules=(CACHE,),
    bare=("transformers", "transformers.generation", "transformers.generation.continuous_batching"),
    replaced=_replaced,
)


class TransformersBlockManager(CuttingAllocator):
    """transformers' manager of shareable blocks."""

    name = "transformers-block-manager"
    capabilities = Capabilities(
        operations=frozenset({"alloc", "append", "truncate", "free", "reset"}), order="set"
    )

    def start(self) -> None:
        """See ``CallerAllocator``."""
        shape = self.shape
        self._manager = PEER.load()[CACHE].BlockManager(shape.num_pages, shape.page_size, tp_on=False)

    @property
    def free_pages(self) -> int:
        """See ``PageAllocator``."""
        return int(self._manager.num_free_blocks)

    def refcounts(self) -> Array:
        """See ``PageAllocator``; the manager keeps them for blocks in use."""
        counts = np.zeros(self.shape.num_pages, np.int32)
        for page, block in self._manager._id_to_block.items():
            counts[page] = block.ref_count
        return counts

    def take(self, sequence: int, pages: int, length: int) -> list[int] | None:
        """See ``CallerAllocator``."""
        row = self._rows.get(sequence) if self._lengths[sequence] >= 0 else None
        taken: list[int] | None = self._manager.get_free_blocks(pages, row[-1] if row else None, True, 0)
        return taken

    def give(self, sequences: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
        """See ``CallerAllocator``."""
        self._manager.free_blocks([page for row in rows for page in row], shareable=True)
