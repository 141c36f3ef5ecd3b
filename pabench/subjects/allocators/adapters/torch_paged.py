# SPDX-License-Identifier: Apache-2.0
"""torch: ``torch.nn.attention.experimental._paged_attention.PagedAttention``, its page table and free list.

A sequence is a row of the batch; ``reserve`` names a length that is to fit, so a row never shrinks.
"""

from __future__ import annotations

from collections.abc import Sequence

from pabench.subjects.allocators.adapters.caller import CallerAllocator
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.peers.package import ThirdPartyPackage

PAGED = "torch.nn.attention.experimental._paged_attention"
PEER = ThirdPartyPackage(package="torch", version="2.13.0", modules=(PAGED,), installed=True)
"""Part of what pabench depends on anyway, so it is imported as it is."""


class TorchPaged(CallerAllocator):
    """torch's experimental paged cache, on the host."""

    name = "torch-paged"
    capabilities = Capabilities(operations=frozenset({"alloc", "append", "free", "reset"}), order="set")

    def start(self) -> None:
        """See ``CallerAllocator``."""
        shape = self.shape
        import torch

        self._torch = torch
        self._paged = PEER.load()[PAGED].PagedAttention(
            shape.num_pages, shape.page_size, shape.max_seqs, device="cpu"
        )

    @property
    def free_pages(self) -> int:
        """See ``PageAllocator``."""
        return len(self._paged.empty_pages)

    def take(self, sequence: int, pages: int, length: int) -> list[int] | None:
        """See ``CallerAllocator``."""
        held = len(self._rows[sequence]) if self._lengths[sequence] >= 0 else 0
        self._paged.reserve(self._torch.tensor([sequence]), self._torch.tensor([length]))
        row = self._paged.page_table[sequence].tolist()
        return [page for page in row if page >= 0][held:]

    def give(self, sequences: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
        """See ``CallerAllocator``; row by row."""
        for sequence in sequences:
            self._paged.erase(self._torch.tensor([sequence]))
