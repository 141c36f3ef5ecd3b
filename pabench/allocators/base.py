"""The protocol of a page allocator.

A sequence is named by an index in ``0..max_seqs-1``.  Every operation is all or nothing: when it raises, the
state is as before.  Page ids are ``0..num_pages-1``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pabench.errors import InvalidCase
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolShape:
    """Sizes that an allocator is made for.

    Attributes:
        num_pages: pages of the pool.
        page_size: tokens of one page.
        max_seqs: sequences that can be live at once.
        max_pages_per_seq: columns of the block table.
    """

    num_pages: int
    page_size: int
    max_seqs: int
    max_pages_per_seq: int

    def __post_init__(self) -> None:
        whole_number("num_pages", self.num_pages, low=1, high=2**30)
        for field in ("page_size", "max_seqs", "max_pages_per_seq"):
            whole_number(field, getattr(self, field), low=1)


class PageAllocator(Protocol):
    """Hands out pages to growing sequences."""

    name: str
    shape: PoolShape

    def extend(self, tokens: Mapping[int, int]) -> Array:
        """Add tokens to sequences in one step; a sequence that is not live starts.

        Args:
            tokens: sequence to number of new tokens, at least 0.

        Returns:
            int64 slots (page * page_size + offset) of the new tokens, in order of sequence index, then of
            position.

        Raises:
            OutOfPages: the pool has too few free pages for all of them together.
            InvalidCase: a sequence index or token count out of range, or a sequence longer than its row.
        """

    def free(self, sequences: Sequence[int]) -> None:
        """End sequences and take their pages back.

        Raises:
            InvalidCase: a sequence is not live, out of range or named twice.
        """

    def length(self, sequence: int) -> int | None:
        """Return the tokens of a sequence, or None when it is not live."""

    def pages(self, sequence: int) -> tuple[int, ...]:
        """Return the pages of a live sequence in logical order."""

    @property
    def free_pages(self) -> int:
        """Pages that nobody holds."""


def check_extend(shape: PoolShape, tokens: Mapping[int, int], lengths: Mapping[int, int]) -> None:
    """Raise ``InvalidCase`` for requests that no pool could serve; ``lengths`` holds the live sequences."""
    for sequence, count in tokens.items():
        whole_number("sequence", sequence, low=0, high=shape.max_seqs - 1)
        whole_number(f"tokens of sequence {sequence}", count, low=0)
        total = lengths.get(sequence, 0) + count
        capacity = shape.max_pages_per_seq * shape.page_size
        if total > capacity:
            raise InvalidCase(f"length of sequence {sequence}", total, f"must be at most {capacity} tokens")


def check_free(shape: PoolShape, sequences: Sequence[int], lengths: Mapping[int, int]) -> None:
    """Raise ``InvalidCase`` unless every sequence is live and named once."""
    seen: set[int] = set()
    for sequence in sequences:
        index = whole_number("sequence", sequence, low=0, high=shape.max_seqs - 1)
        if index in seen:
            raise InvalidCase("sequence", index, "must be freed once")
        if index not in lengths:
            raise InvalidCase("sequence", index, "must be live to be freed")
        seen.add(index)
