"""The protocol of a page allocator.

A sequence is named by an index in ``0..max_seqs-1``.  Every operation is all or nothing: when it raises, the
state is as before.  Page ids are ``0..num_pages-1``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pabench.errors import InvalidCase, OutOfPages
from pabench.problem.checks import INT32_MAX, whole_number
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


def check_extend(shape: PoolShape, tokens: Mapping[int, int], lengths: Mapping[int, int]) -> dict[int, int]:
    """Return ``tokens`` as plain integers, in order of sequence index.

    Args:
        shape: of the pool.
        tokens: the request.
        lengths: tokens of the live sequences.

    Raises:
        InvalidCase: a request that no pool could serve.
        OutOfPages: more tokens than the whole pool has slots, said before anybody makes room for them.
    """
    request = {}
    longest = min(shape.max_pages_per_seq * shape.page_size, INT32_MAX)
    for sequence, count in tokens.items():
        index = whole_number("sequence", sequence, low=0, high=shape.max_seqs - 1)
        request[index] = whole_number(f"tokens of sequence {index}", count, low=0)
        total = lengths.get(index, 0) + request[index]
        if total > longest:
            raise InvalidCase(f"length of sequence {index}", total, f"must be at most {longest} tokens")
    wanted, slots = sum(request.values()), shape.num_pages * shape.page_size
    if wanted > slots:
        raise OutOfPages(f"{wanted} tokens requested, the pool has {slots} slots")
    return dict(sorted(request.items()))


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
