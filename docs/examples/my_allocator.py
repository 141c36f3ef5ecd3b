# SPDX-License-Identifier: Apache-2.0
"""A page allocator of one's own: the pages that came back last go out first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pabench.errors import InvalidCase, OutOfPages
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.results import NULL_PAGE, Granted


class StackAllocator(PageAllocator):
    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape)
        self.stack = list(range(shape.num_pages))
        self.tokens = np.full(shape.max_seqs, -1, np.int64)
        self.table = np.full((shape.max_seqs, shape.max_pages_per_seq), NULL_PAGE, np.int32)

    def lengths(self) -> Array:
        return self.tokens.copy()

    def block_table(self) -> Array:
        return self.table.copy()

    @property
    def free_pages(self) -> int:
        return len(self.stack)

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        sequence, tokens = self.check_start(sequence, tokens, final_tokens)
        return self.grow(sequence, 0, tokens)

    def append(self, sequence: int, tokens: int) -> Granted:
        if (length := self.length(self.check_index(sequence))) is None:
            raise InvalidCase("sequence", sequence, "must be live")
        ((sequence, tokens),) = self.check_batch([sequence], tokens, self.tokens).items()
        return self.grow(sequence, length, tokens)

    def grow(self, sequence: int, length: int, tokens: int) -> Granted:
        size = self.shape.page_size
        held, needed = pages_needed(length, size), pages_needed(length + tokens, size)
        if needed - held > len(self.stack):
            raise OutOfPages(needed - held, len(self.stack))
        self.table[sequence, held:needed] = [self.stack.pop() for _ in range(needed - held)]
        self.tokens[sequence] = length + tokens
        places = np.arange(length, length + tokens)
        return Granted(new_slots=self.table[sequence, places // size].astype(np.int64) * size + places % size)

    def free(self, sequences: Sequence[int]) -> None:
        for sequence in self.check_leaving(sequences):
            self.stack += self.pages(sequence)
            self.tokens[sequence], self.table[sequence] = -1, NULL_PAGE
