# SPDX-License-Identifier: Apache-2.0
"""What the caller of a page pool keeps for itself: rows and lengths.

The pools of engines know pages, not sequences.  This is the thinnest caller that makes sequences of them: it
refuses what only it can know of (an index out of range, a row that overflows, a sequence started twice) and
passes everything else on, so that what the package makes of it shows: a count below 0 as that many pages,
rounded away from 0; the pages of a sequence that has ended, once more; the pages of a sequence named twice,
twice.  What the package raises becomes a typed refusal.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pabench.errors import InvalidCase, OutOfPages
from pabench.problem.checks import INT32_MAX, whole_number
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.results import NULL_PAGE, Granted

REFUSALS = (AssertionError, ValueError, LookupError, RuntimeError, TypeError, AttributeError)
"""What packages raise when they refuse, or break over what they were asked."""


class CallerAllocator(PageAllocator):
    """Rows and lengths around a pool; a subclass says how the pool takes and gives."""

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape)
        self._start()

    def _start(self) -> None:
        self._rows: dict[int, list[int]] = {}
        self._lengths = np.full(self.shape.max_seqs, -1, np.int64)
        self.start()

    @abstractmethod
    def start(self) -> None:
        """Make a new, empty pool of the package.

        Raises:
            Unsupported: the package cannot be used.
        """

    @abstractmethod
    def take(self, sequence: int, pages: int, length: int) -> list[int] | None:
        """Take pages for a sequence that is to have ``length`` tokens; None when the package says no."""

    @abstractmethod
    def give(self, sequences: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
        """Give the rows of ended sequences back, in one call where the package has one."""

    def lengths(self) -> Array:
        """See ``PageAllocator``."""
        return self._lengths.copy()

    def block_table(self) -> Array:
        """See ``PageAllocator``."""
        table = np.full((self.shape.max_seqs, self.shape.max_pages_per_seq), NULL_PAGE, np.int32)
        for sequence in np.flatnonzero(self._lengths >= 0).tolist():
            row = self._rows[sequence]
            table[sequence, : len(row)] = row
        return table

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        """See ``PageAllocator``; ``final_tokens`` is not passed on."""
        sequence = self.check_index(sequence)
        if self._lengths[sequence] >= 0:
            raise InvalidCase("sequence", sequence, "must not be live")
        tokens = whole_number(f"tokens of sequence {sequence}", tokens, low=-INT32_MAX)
        if final_tokens is not None:
            whole_number("final_tokens", final_tokens, low=tokens)
        return self._grow(sequence, [], 0, tokens)

    def append(self, sequence: int, tokens: int) -> Granted:
        """See ``PageAllocator``."""
        sequence = self.live(sequence)
        tokens = whole_number(f"tokens of sequence {sequence}", tokens, low=-INT32_MAX)
        return self._grow(sequence, self._rows[sequence], int(self._lengths[sequence]), tokens)

    def free(self, sequences: Sequence[int]) -> None:
        """See ``PageAllocator``; what has ended already is given back again, for the package to refuse."""
        named = [self.check_index(sequence) for sequence in sequences]
        seen: set[int] = set()
        for sequence in named:
            ended = self._lengths[sequence] < 0 or sequence in seen
            if ended and not self._rows.get(sequence):
                raise InvalidCase("sequence", sequence, "must be live")
            seen.add(sequence)
        rows = [self._rows[sequence] for sequence in named]
        self.asked(lambda: self.give(named, rows), "the sequences to free")
        self._lengths[named] = -1

    def reset(self) -> None:
        """See ``PageAllocator``: a new pool."""
        if (self._lengths >= 0).any():
            raise InvalidCase("sequences", np.flatnonzero(self._lengths >= 0).tolist(), "must not be live")
        self._start()

    def asked(self, call: Callable[[], Any], what: str) -> Any:
        """Ask the package; raise ``InvalidCase`` when it raises."""
        try:
            return call()
        except REFUSALS as error:
            said = (str(error) or "nothing").splitlines()[0]
            raise InvalidCase(what, type(error).__name__, f"is refused by the package: {said}") from None

    def slots_of(self, row: Sequence[int], start: int, end: int) -> Array:
        """Return the slots of tokens ``start`` to ``end`` of a sequence, int64."""
        positions = np.arange(start, max(start, end), dtype=np.int64)
        pages = np.asarray(row, np.int64)[positions // self.shape.page_size] if len(positions) else positions
        return pages * self.shape.page_size + positions % self.shape.page_size

    def _grow(self, sequence: int, row: list[int], length: int, tokens: int) -> Granted:
        size, end = self.shape.page_size, length + tokens
        self.check_length(sequence, end)
        if tokens < 0:
            pages = -pages_needed(-tokens, size)
        else:
            pages = pages_needed(end, size) - pages_needed(length, size)
        taken = self._taken(sequence, pages, end) if pages else []
        if tokens >= 0:
            self._rows[sequence], self._lengths[sequence] = [*row, *taken], end
        return Granted(new_slots=self.slots_of([*row, *taken], length, end))

    def _taken(self, sequence: int, pages: int, length: int) -> list[int]:
        available = self.free_pages
        try:
            taken = self.asked(lambda: self.take(sequence, pages, length), "the pages to take")
        except InvalidCase:
            if pages <= available:
                raise
            taken = None
        if taken is None:
            raise OutOfPages(pages, available)
        pages_taken: list[int] = taken
        return pages_taken

    def live(self, sequence: int) -> int:
        """Return the index of a live sequence; raises ``InvalidCase`` for any other."""
        sequence = self.check_index(sequence)
        if self._lengths[sequence] < 0:
            raise InvalidCase("sequence", sequence, "must be live")
        return sequence


class CuttingAllocator(CallerAllocator):
    """A caller of a pool that takes back any pages, also the last ones of a sequence that goes on."""

    def truncate(self, sequence: int, length: int) -> None:
        """See ``PageAllocator``: the pages behind the new end are given back."""
        sequence = self.live(sequence)
        length = whole_number("length", length, low=0, high=int(self._lengths[sequence]))
        row = self._rows[sequence]
        kept = pages_needed(length, self.shape.page_size)
        if row[kept:]:
            self.asked(lambda: self.give([sequence], [row[kept:]]), "the end of a sequence")
        self._rows[sequence], self._lengths[sequence] = row[:kept], length
