"""The reference model: the allocator's specification in plain Python, obvious rather than fast."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from pabench.allocators.base import PoolShape, check_extend, check_free
from pabench.errors import OutOfPages
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed


class ModelAllocator:
    """Free pages in a queue, oldest first; sequences served in order of their index."""

    name = "model"

    def __init__(self, shape: PoolShape) -> None:
        self.shape = shape
        self._free = deque(range(shape.num_pages))
        self._pages: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}

    def extend(self, tokens: Mapping[int, int]) -> Array:
        """Add tokens; see ``PageAllocator.extend``."""
        tokens = check_extend(self.shape, tokens, self._lengths)
        page_size = self.shape.page_size
        need = {}
        for sequence, count in tokens.items():
            old = self._lengths.get(sequence, 0)
            need[sequence] = pages_needed(old + count, page_size) - pages_needed(old, page_size)
        total = sum(need.values())
        if total > len(self._free):
            raise OutOfPages(f"{total} pages needed, {len(self._free)} free")
        slots = []
        for sequence in tokens:
            pages = self._pages.setdefault(sequence, [])
            pages.extend(self._free.popleft() for _ in range(need[sequence]))
            old = self._lengths.get(sequence, 0)
            self._lengths[sequence] = old + tokens[sequence]
            for t in range(old, old + tokens[sequence]):
                slots.append(pages[t // page_size] * page_size + t % page_size)
        return np.asarray(slots, dtype=np.int64)

    def free(self, sequences: Sequence[int]) -> None:
        """End sequences; see ``PageAllocator.free``."""
        check_free(self.shape, sequences, self._lengths)
        for sequence in sorted(sequences):
            self._free.extend(self._pages.pop(sequence))
            del self._lengths[sequence]

    def length(self, sequence: int) -> int | None:
        """Return the tokens of a sequence, or None when it is not live."""
        return self._lengths.get(sequence)

    def pages(self, sequence: int) -> tuple[int, ...]:
        """Return the pages of a live sequence."""
        return tuple(self._pages[sequence])

    @property
    def free_pages(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)
